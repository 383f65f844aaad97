"""README and docs/: their limits, and that every link, file, command, option and key that they name exists."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from script import script

from rdd_deploy.cli import COMMANDS
from rdd_deploy.export.profile import Profile, load_profile
from rdd_deploy.recipe import StudentRecipe, TeacherRecipe, load_recipe
from rdd_deploy.schema import override_all
from rdd_deploy.utils.problems import dotted

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(?:#([^)\s]+))?\)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IN_CODE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(
    r"(?:python -m rdd_deploy\.(\w+)|rdd-deploy (\w+)|python (apps/\w+\.py|scripts/\w+\.py))([^`\n#…]*)"
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def test_the_readme_stays_short() -> None:
    text = TEXTS[README]
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1_300
    assert len(re.findall(r"\d+(?:[.,]\d+)*", text)) <= 80, (
        "digits in names count, too; figures belong to docs/results.md"
    )


def test_the_readme_has_the_three_lines_that_matter_most_and_the_two_for_a_newcomer() -> None:
    lines = [line.partition("#")[0].strip() for line in TEXTS[README].splitlines()]
    for command in (
        "python -m rdd_deploy.distill recipes/camvid_mbv3.yaml",
        "python -m rdd_deploy.export --trt --int8",
        "python apps/live_segment.py --camera 0",
        "make demo",
        "make test",
    ):
        assert command in lines
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+(?: [\w-]+)*):", makefile, re.MULTILINE))
    assert {"demo", "test"} <= {name for line in targets for name in line.split()}


@each_page
def test_links(page: Path) -> None:
    for file, anchor in LINK.findall(TEXTS[page]):
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), file
        assert target.is_relative_to(ROOT), file
        if anchor:
            assert anchor in anchors(target), f"{file}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_recipes_and_profiles_that_are_named_are_there(page: Path) -> None:
    text = TEXTS[page]
    for path in re.findall(r"(?<![\w./-])(?:recipes|export|studies)/[\w.-]+\.yaml", text):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"`((?:camvid|streets|cityscapes|voc|ade)_\w+)`", text):
        assert any((ROOT / folder / f"{name}.yaml").is_file() for folder in ("recipes", "studies")), name
    for name in re.findall(
        r"(?:`|--profile |export/)((?:onnxruntime|openvino|tensorrt|tensorrt-rtx|jetson-orin)-(?:fp|bf|int)\d+)\b", text
    ):
        assert (ROOT / "export" / f"{name}.yaml").is_file(), name


def test_every_recipe_profile_and_study_is_named() -> None:
    places = {
        "recipes": (ROOT / "docs/recipes.md",),
        "export": (README, ROOT / "docs/export.md"),
        "studies": (ROOT / "docs/studies.md",),
    }
    for folder, pages in places.items():
        for file in (ROOT / folder).glob("*.yaml"):
            assert all(f"`{file.stem}`" in TEXTS[page] for page in pages), file.stem


@each_page
def test_commands_and_their_options(page: Path) -> None:
    for module, command, file, words in COMMAND.findall(TEXTS[page]):
        name = module or command
        if file:
            source = ROOT / file
            assert source.is_file(), file
            known = (
                options_of("live")
                if file.startswith("apps/")
                else set(re.findall(r'"(--[\w-]+)"', source.read_text(encoding="utf-8")))
            )
        else:
            assert name in COMMANDS, name
            assert not module or importlib.util.find_spec(f"rdd_deploy.{module}"), module
            # A group of commands.
            below = [name, words.split()[0]] if name in ("data", "bundle") and words.split() else [name]
            known = options_of(*below)
        for option in re.findall(r"--[a-z][\w-]*", words):
            assert option in known, f"{file or name} {option}"
        tree: dict[str, object] = {}
        overrides = [word for word in as_a_shell_splits(words) if re.match(r"[a-z_]+\.[a-z_.]+=.", word)]
        assert override_all(tree, overrides) == []
        for text in overrides:
            assert text.partition("=")[0] in recipe_keys(), text


def as_a_shell_splits(words: str) -> list[str]:
    with suppress(ValueError):  # prose that a command stands in may have an apostrophe
        return shlex.split(words)
    return words.split()


@cache
def options_of(*command: str) -> frozenset[str]:
    """What a command's help lists; it imports nothing heavy."""
    words = [sys.executable, "-m", "rdd_deploy", *command, "--help"]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "300", "PYTHONPATH": str(ROOT)},
    )
    return frozenset(re.findall(r"(?<![\w-])--[a-z][\w-]*", done.stdout))


@cache
def recipe_keys() -> frozenset[str]:
    return frozenset(
        [*dotted(StudentRecipe), *dotted(TeacherRecipe), *(f"distillation.losses.{key}" for key in ("name", "weight"))]
    )


# A list of changes names old keys.
@pytest.mark.parametrize("page", PAGES[:-1], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_keys(page: Path) -> None:
    """``section.key`` in the text is one of a recipe or of a profile."""
    known = recipe_keys() | set(dotted(Profile))
    sections = {key.partition(".")[0] for key in known if "." in key}
    for code in IN_CODE.findall(TEXTS[page]):
        for key in re.findall(r"(?<![\w./])([a-z_]+\.[a-z_.]+[a-z_])(?![\w(/])", code):
            section, last = key.partition(".")[0], key.rpartition(".")[2]
            if (
                section in sections
                and last not in ("py", "yaml", "safetensors", "json")
                and not key.startswith("teacher.options.")
            ):
                assert key in known, key


@each_page
def test_examples(page: Path) -> None:
    """Python compiles, YAML is what it says it is."""
    for kind, block in FENCED.findall(TEXTS[page]):
        if kind == "python":
            compile(block, str(page), "exec")
        elif kind == "yaml":
            assert isinstance(yaml.safe_load(block), dict)


def test_the_example_of_a_profile_is_one(tmp_path: Path) -> None:
    (block,) = [block for kind, block in FENCED.findall(TEXTS[ROOT / "docs/export.md"]) if kind == "yaml"]
    (tmp_path / "my_camera.yaml").write_text(block, encoding="utf-8")
    assert load_profile(tmp_path / "my_camera.yaml").name == "my_camera"


def test_the_example_of_own_data_is_part_of_a_recipe(tmp_path: Path) -> None:
    (block,) = [block for kind, block in FENCED.findall(TEXTS[ROOT / "docs/recipes.md"]) if kind == "yaml"]
    (tmp_path / "mine.yaml").write_text(block + "student: {encoder: mobilenetv3_small_050}\n", encoding="utf-8")
    assert load_recipe(tmp_path / "mine.yaml").data.name == "folder"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = script("recipe_docs")
    monkeypatch.setattr(sys, "argv", ["recipe_docs.py", "--check"])
    return module


def test_the_tables_of_keys_are_what_the_schema_says(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tables.main() == 0, "run: python scripts/recipe_docs.py"
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    for file in tables.TABLES:
        stale = (ROOT / "docs" / file).read_text(encoding="utf-8").replace("`0.1`", "`0.2`").replace("`128`", "`64`")
        (tmp_path / file).write_text(stale, encoding="utf-8")
    assert tables.main() == 1
    monkeypatch.setattr(sys, "argv", ["recipe_docs.py"])
    assert tables.main() == 0
    for file in tables.TABLES:
        assert (tmp_path / file).read_text(encoding="utf-8") == (ROOT / "docs" / file).read_text(encoding="utf-8")


def test_every_key_has_a_type_a_default_and_a_meaning(tables: ModuleType) -> None:
    text = tables.recipe_tables() + "\n" + tables.profile_tables()
    rows = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows), [
        row for row in rows if not all(row)
    ]
    named = {row[0].strip("`") for row in rows}
    below = {
        key
        for key in recipe_keys() | set(dotted(Profile))
        if "." in key and not key.startswith(("network.", "distillation.losses."))
    }
    groups = {key for key in below if any(other.startswith(f"{key}.") for other in below)}
    assert below - groups <= named


def test_the_tree_names_files_that_are_there() -> None:
    text = TEXTS[ROOT / "docs/design.md"]
    tree = next(block for _, block in FENCED.findall(text) if "rdd_deploy/" in block)
    package = {
        path.name
        for path in [
            *(ROOT / "rdd_deploy").rglob("*.py"),
            *(ROOT / "scripts").glob("*.py"),
            *(ROOT / "apps").glob("*.py"),
        ]
    }
    assert set(re.findall(r"\b\w+\.py\b", tree)) <= package
    for path in re.findall(
        r"`((?:rdd_deploy|tests|losses|data|models|export|runtime|live|training|scripts)/[\w/]+\.py)`", text
    ):
        assert (ROOT / path).is_file() or (ROOT / "rdd_deploy" / path).is_file(), path


# Folders of which the tree says "one file each", or what they are for.
LISTED_AS_FOLDERS = (
    "data/imports",
    "data/streets",
    "export/quantization/schemes",
    "losses",
    "models/teachers",
    "runtime/backends",
    "training/loggers",
    "utils",
)


def test_the_tree_names_every_module() -> None:
    tree = next(block for _, block in FENCED.findall(TEXTS[ROOT / "docs/design.md"]) if "rdd_deploy/" in block)
    named = set(re.findall(r"\b\w+\.py\b", tree)) | {"__init__.py"}
    package = ROOT / "rdd_deploy"
    modules = [
        path for path in package.rglob("*.py") if path.parent.relative_to(package).as_posix() not in LISTED_AS_FOLDERS
    ]
    assert [path for path in modules if path.name not in named] == []
    for folder in {path.parent for path in package.rglob("*.py")} - {package}:
        assert f"{folder.name}/" in tree, folder


@each_page
def test_no_page_speaks_of_the_machine_that_it_was_written_on(page: Path) -> None:
    assert str(ROOT) not in TEXTS[page]


def test_the_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{citation["version"]}"' in project
    assert citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert paper["url"] == "https://arxiv.org/abs/2407.03719"
    assert [author["family-names"] for author in paper["authors"]] == ["Liang", "Sun", "Du", "Chen", "Huang"]

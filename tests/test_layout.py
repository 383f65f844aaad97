"""The house's rules: imports point down, none go in a circle, no file is long, no name is in two tables, commands parse
before they load.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rdd_deploy
from rdd_deploy.cli import COMMANDS

PACKAGE = Path(rdd_deploy.__file__).parent
LAYERS = [
    "errors", "utils", "console", "schema", "preprocess", "runtime", "data", "outputs", "losses", "metrics", "lost_pixels", "drawing", "models", "live",
    "recipe_files", "recipe_train", "recipe", "benchmark", "training", "study", "export", "suggest", "bundle", "evaluation", "prediction", "commands",
]  # fmt: skip
"""From the bottom up: a module imports from its own layer and from those before it."""
LONGEST = 350


def modules() -> dict[str, Path]:
    """Dotted names below the package; the package itself is left out."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]
    return found


MODULES = modules()


def layer(module: str) -> int:
    first = module.partition(".")[0]
    if module.endswith(("__main__", ".command")) or first in (
        "distill",
        "train",
        "evaluate",
        "predict",
        "demo",
        "cli",
        "parity",
    ):
        return LAYERS.index("commands")
    return LAYERS.index(first)


def imported(module: str) -> set[str]:
    """What a module imports of the package, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rdd_deploy":
            base = (node.module or "")[len("rdd_deploy.") :]
            for alias in node.names:
                inner = f"{base}.{alias.name}" if base else alias.name
                found.add(inner if inner in MODULES else base)
    return found - {module, ""}


GRAPH = {module: imported(module) for module in MODULES}


def test_imports_point_down() -> None:
    upward = [
        f"{module} -> {other}" for module, others in GRAPH.items() for other in others if layer(other) > layer(module)
    ]
    assert upward == []


def test_no_imports_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module not in done:
            for other in sorted(GRAPH.get(module, ())):
                visit(other, (*above, module))
            done.add(module)

    for module in GRAPH:
        visit(module, ())


@pytest.mark.parametrize("folder", ["rdd_deploy", "scripts", "requirements", "apps"])
def test_no_file_is_long(folder: str) -> None:
    long = {
        str(path): lines
        for path in (PACKAGE.parent / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert long == {}


def test_no_name_is_listed_in_two_tables() -> None:
    """A table is a dictionary of ``Entry``; where a schema lists the same names, it takes them from there."""
    from rdd_deploy.data import DATASETS
    from rdd_deploy.losses import LOSSES
    from rdd_deploy.models import HEADS
    from rdd_deploy.models.teachers import TEACHERS
    from rdd_deploy.runtime.table import BACKENDS

    tables = {"data": DATASETS, "losses": LOSSES, "heads": HEADS, "teachers": TEACHERS, "backends": BACKENDS}
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (
                isinstance(node, ast.Subscript)
                and isinstance(node.slice, ast.Tuple)
                and ast.unparse(node.value) == "Literal"
            ):
                continue
            literal = {one.value for one in node.slice.elts if isinstance(one, ast.Constant)}
            for kind, names in tables.items():
                assert len(names) < 2 or not set(names) <= literal, (
                    f"{path} repeats the names of {kind}: {ast.unparse(node)}"
                )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_little(command: str) -> None:
    """Modules are counted, not milliseconds, which depend on the machine: none of these takes less than 50 ms."""
    program = "import sys; sys.argv = ['rdd-deploy', sys.argv[1], '--help']\nfrom rdd_deploy.cli import main\n"
    program += "try:\n    main()\nexcept SystemExit:\n    print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program, command], capture_output=True, text=True, check=True, timeout=60
    )
    heavy = {
        "torch",
        "timm",
        "lightning_fabric",
        "cv2",
        "onnx",
        "onnxruntime",
        "openvino",
        "matplotlib",
        "PIL",
        "torchvision",
        "pydantic",
        "aiohttp",
    }
    assert heavy & set(done.stderr.split()) == set()

"""Recipes, profiles, plans and records of anybody's: whatever they hold, they load or end in a sentence, soon."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from toys import tree

from rdd_deploy.benchmark.compare import merged
from rdd_deploy.benchmark.records import Benchmark, read_benchmark
from rdd_deploy.benchmark.report.terminal import show
from rdd_deploy.benchmark.report.write import render
from rdd_deploy.benchmark.session import judged
from rdd_deploy.data import DATASETS
from rdd_deploy.errors import RddError, RecipeError
from rdd_deploy.export.profile import Profile, load_profile
from rdd_deploy.recipe import StudentRecipe, load_recipe, option_hint
from rdd_deploy.runtime.manifest import read_manifest
from rdd_deploy.schema import override, validated
from rdd_deploy.utils.files import parse_json, read_file
from rdd_deploy.utils.problems import dotted, model_of
from rdd_deploy.utils.unions import by_name
from rdd_deploy.utils.yaml_file import load_yaml, parse_yaml

KEYS = sorted({part for path in (*dotted(StudentRecipe), *dotted(Profile)) for part in path.split(".")})
PROBE_SIZES = [
    "bool",
    "int",
    "str",
    "float",
    "[",
    "a[b",
    "list[str]",
    "function-wrap[x()]",
    "",
    "0",
    "\x1b",
    "\udcff",
    "{error}",
    "epochs",
]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(2**130), 2**130), st.floats(), st.text(max_size=8), st.sampled_from(KEYS + PROBE_SIZES),
    st.sampled_from([10**30, 1e308, -1, 0, 1, 255, 256, "none", "camvid", "folder", "streets", "\ud800", "x" * 300]),
)  # fmt: skip
NAMES = st.sampled_from(KEYS + PROBE_SIZES) | st.text(max_size=5)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)


def grafted(content: Any, path: tuple[int, ...], graft: Any) -> Any:
    """A copy of a tree with one of its nodes replaced."""
    if not path or not isinstance(content, dict | list) or not content:
        return graft
    first, *rest = path
    keys = list(content) if isinstance(content, dict) else range(len(content))
    key = keys[first % len(keys)]
    copy: Any = dict(content) if isinstance(content, dict) else list(content)
    copy[key] = grafted(copy[key], tuple(rest), graft)
    return copy


PATHS = st.lists(st.integers(0, 30), max_size=5).map(tuple)


@settings(max_examples=60)
@given(PATHS, TREES, st.sampled_from([StudentRecipe, Profile]))
def test_any_tree_is_a_recipe_or_a_sentence(path: tuple[int, ...], graft: Any, model: type[BaseModel]) -> None:
    whole: dict[str, Any] = tree(Path("data")) | {
        "teacher": {"recipe": "t", "cache": True, "scales": [1.0]},
        "distillation": {"losses": [{"name": "kd"}]},
    }
    if model is Profile:
        whole = {
            "name": "x",
            "backend": "onnxruntime",
            "precision": "int8",
            "form": "x86",
            "calibration": {"images": 4},
            "gate": {"distil": {"steps": 4}},
        }
    content = grafted(whole, path, graft)
    content = content if isinstance(content, dict) else {"x": content}
    said(lambda: validated(model, content, "file"))
    said(lambda: validated(model, parse_yaml(yaml.safe_dump(content), "file"), "file"))


def said(work: Callable[[], Any]) -> None:
    """Any error is ours, with its details."""
    problem = None
    try:
        work()
    except RecipeError as error:
        problem = error
    assert problem is None or all(line.strip() for line in problem.lines)


@settings(max_examples=150)
@given(st.text(alphabet=st.sampled_from("ab:[]{},-&*<>!|?\"'%@ \n\t0123456789.e~=\\\x00\x85\ud800"), max_size=60))
def test_any_text_is_yaml_or_a_sentence(text: str) -> None:
    said(lambda: parse_yaml(text, "here"))
    said(lambda: override({}, text))


@pytest.mark.parametrize(
    "text",
    [
        "!!int ''",
        "!!int _",
        "!!bool x",
        "!!timestamp x",
        "!!float x",
        "!!binary x",
        "!!set [a]",
        "!!omap {a: 1}",
        "{? {a: 1} : 2}",
        "'\\ud800': 1",
    ],
)
def test_tags_of_yaml(text: str) -> None:
    said(lambda: parse_yaml(f"a: {text}", "here"))


def bombs() -> Iterator[tuple[str, str, str]]:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    yield "laughs", laughs, "aliases make more than 20000 values of it"
    merges = "a0: &a0 {x: 1}\n" + "".join(
        f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30)
    )
    yield "merges", merges, "aliases make more than 20000 values of it"
    yield "itself", "a: &a [*a]", "an alias stands for what it is a part of"
    yield "nested", "a: " + "[" * 100_000, "values are nested more than 32 deep"
    yield "nested mappings", "{a: " * 30_000, "values are nested more than 32 deep"
    yield "digits", "a: " + "9" * 100_000, "a number has 100000 characters"
    yield "hexadecimal", "a: 0x" + "f" * 100_000, "a number has 100002 characters"
    yield "sixties", "a: 1" + ":59" * 50_000, "a number has 150001 characters"
    yield "large", "#" * 300_000, "it is larger than 256 KiB"


@pytest.mark.parametrize(
    ("text", "sentence"), [pytest.param(text, sentence, id=name) for name, text, sentence in bombs()]
)
def test_bombs(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(text)
    began = time.process_time()
    for load in (load_recipe, load_profile, load_yaml):
        with pytest.raises(RecipeError) as error:
            load(tmp_path / "bomb.yaml")  # type: ignore[operator]
        assert sentence in str(error.value)
        assert len(str(error.value)) < 1000
    assert time.process_time() - began < 3


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "bundle").mkdir()
    os.mkfifo(tmp_path / "bundle" / "manifest.json")
    for read in (load_recipe, load_profile, load_yaml, read_benchmark):
        with pytest.raises(RddError):
            read(tmp_path / "pipe.yaml")  # type: ignore[operator]
        with pytest.raises(RddError):
            read(Path("/dev/zero"))  # type: ignore[operator]
        with pytest.raises(RddError):
            read(tmp_path)  # type: ignore[operator]
    with pytest.raises(RddError):
        read_manifest(tmp_path / "bundle")
    with pytest.raises(OSError, match="it is a folder, pipe or device, not a file"):
        read_file(tmp_path / "pipe.yaml", 10)


def whole_numbers(
    model: type[BaseModel], above: tuple[str, ...] = (), data: str = "camvid"
) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        part = mark.model({"name": data}) if (mark := by_name(field)) else model_of(field.annotation)
        if part is not None and "list" not in str(field.annotation):
            yield from whole_numbers(part, (*above, name))
        elif "int" in str(field.annotation):
            yield (*above, name)


@pytest.mark.parametrize("model", [StudentRecipe, Profile])
def test_every_whole_number_has_an_upper_bound(model: type[BaseModel]) -> None:
    found = {path: data for data in DATASETS for path in whole_numbers(model, data=data) if path[-1] != "seed"}
    assert len(found) >= (15 if model is StudentRecipe else 7)
    for path, data in found.items():
        content: Any = 2**60
        if path[-1] in ("size", "crop", "void_ids"):
            content = [2**60, 2**60]
        elif path[-1] == "palette":
            content = [[2**60] * 3]
        for key in reversed(path):
            content = {key: content} | ({"name": data} if key == path[-1] and path[0] == "data" else {})
        with pytest.raises(RecipeError) as error:
            validated(model, content, "file")
        assert any(line.startswith(".".join(path)) and "got" in line for line in error.value.lines), (
            path,
            error.value.lines,
        )


@pytest.mark.parametrize("key", ["bool", "int", "float", "str", "a[b]", "list[str]", "function-wrap[_every_problem()]"])
def test_unknown_keys_are_told_as_they_were_written(key: str) -> None:
    for content, path in (
        ({key: 1}, key),
        ({"train": {key: 1}}, f"train.{key}"),
        ({"distillation": {"losses": [{"name": "kd", key: 1}]}}, f"distillation.losses.0.{key}"),
    ):
        with pytest.raises(RecipeError) as error:
            validated(StudentRecipe, content, "file")
        assert any(line.startswith(f"{path}: unknown key; ") for line in error.value.lines), error.value.lines


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"epochs": 3}, "epochs: unknown key; did you mean 'train.epochs'? allowed: name, data"),
        ({"batch": 3}, "batch: unknown key; did you mean 'train.batch' or 'evaluation.batch'? allowed: name"),
        ({"train": {"size": [1, 2]}}, "train.size: unknown key; did you mean 'data.size' or 'teacher.size'? allowed: epochs"),
        ({"train": {"epoch": 3}}, "train.epoch: unknown key; did you mean 'epochs'? allowed: epochs"),
        ({"learning": 1}, "learning: unknown key; allowed: name"),
        ({"data": {"size": 96}}, "data.size: got 96, expected [height, width], e.g. [360, 480]"),
        ({"data": {"size": [96, 96, 3]}}, "data.size: got [96, 96, 3], expected [height, width], e.g. [360, 480]"),
        ({"augment": {"scale": 2}}, "augment.scale: got 2, expected a list in brackets, e.g. [0.5, 2.0]"),
        ({"data": {"name": "folder", "classes": "a"}}, "data.classes: got 'a', expected a list in brackets, e.g. [a, b]"),
        ({"train": 3}, "train: got 3, expected keys with values of their own, e.g. {key: value}"),
        ({"distillation": {"losses": [{"name": "kd", "options": {"temperature": float("inf")}}]}}, "got inf, expected: input should be a finite number"),
    ],
)  # fmt: skip
def test_hints(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        validated(StudentRecipe, content, "file")
    assert any(sentence in line for line in error.value.lines), error.value.lines


def test_options_that_are_keys() -> None:
    assert option_hint("--epochs") == "did you mean train.epochs=VALUE, without dashes?"
    assert option_hint("--train.epochs") == "did you mean train.epochs=VALUE, without dashes?"
    assert option_hint("--save-minutes") == "did you mean train.save_minutes=VALUE, without dashes?"
    assert option_hint("--zzzz") == ""


def test_numbers_and_nesting_in_json() -> None:
    for text in ("NaN", "-Infinity", "[1e999]", "9" * 50, "[" * 100_000, "\xff", "{", ""):
        with pytest.raises(ValueError):
            parse_json(text.encode("latin-1"))
    assert parse_json(b'{"a": [1, -2.5e3, null]}') == {"a": [1, -2500.0, None]}


def example() -> dict[str, Any]:
    import sys

    sys.path.insert(0, str(Path(__file__).parent / "benchmarking"))
    import made_up

    other = made_up.benchmark(made_up.row("earlier", 3, 70))
    rows = (made_up.row("float", 30, 70), made_up.row("int8", 10, 69, drop=1), made_up.failed("x", "why"))
    full = judged(merged(made_up.benchmark(*rows), [(Path("old.json"), other)]), 15, 2)
    return json.loads(full.model_dump_json())  # type: ignore[no-any-return]


WHOLE = example()
FIGURES = st.sampled_from(
    [
        0,
        -1,
        1e-320,
        1e308,
        1e999,
        float("nan"),
        10**40,
        "",
        "\ud800",
        "\x1b[31m",
        "[/b]",
        "../../x",
        "x" * 500,
        [],
        {},
        None,
        True,
    ]
)


@settings(max_examples=150)
@given(PATHS, FIGURES | TREES)
def test_any_file_to_compare_with_can_be_shown_or_ends_in_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[int, ...], graft: Any
) -> None:
    place = tmp_path_factory.getbasetemp() / "compare.json"
    place.write_text(json.dumps(grafted(WHOLE, path, graft)))
    try:
        old = read_benchmark(place)
    except RddError:
        return
    full = judged(merged(Benchmark.model_validate(WHOLE), [(place, old)]), 15, 2)
    show(full)
    page = render(full, [], [(0, 0, 0)] * 3)
    assert "\x1b" not in page
    assert full.rows

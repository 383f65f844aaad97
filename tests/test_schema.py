from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from rdd_deploy.errors import RecipeError
from rdd_deploy.schema import Part, override, validated, with_new_names
from rdd_deploy.utils.yaml_file import load_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2e+1", -20.0),
        (".5e1", 5.0),
        ("1.5", 1.5),
        ("7", 7),
        ("1e", "1e"),
        ("e3", "e3"),
        ("null", None),
    ],
)
def test_numbers(text: str, value: Any) -> None:
    got = parse_yaml(text, "here")
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\na: 2", "key 'a' is given twice"),
        ("a: {b: 1, b: 2}", "key 'b' is given twice"),
        ("a: &a {b: 1}\nc: {<<: *a, d: 1, d: 2}", "key 'd' is given twice"),
        ("a: &a {b: 1}\nc: {<<: *a, <<: *a}", "key '<<' is given twice"),
        ("a: {<<: 1}", "expected a mapping or list of mappings for merging"),
        ("1: 2", "key '1' is read as 1; put it in quotes"),
        ("yes: 2", "key 'yes' is read as True; put it in quotes"),
        ("a: 012", "012 is read as an octal number; write it in decimal digits without a zero in front"),
        ("a: [1:30]", "1:30 is read as a number in sixties"),
        ("a: -1:30.5", "-1:30.5 is read as a number in sixties"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: [1", "isn't valid YAML"),
        ("a: \x00", "isn't valid YAML"),
        ("a: *b", "found undefined alias"),
        ("? [1, 2]\n: 3", "key a list or mapping is read as"),
        ("a: 2026-99-99", "isn't valid YAML"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text: str, problem: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_yaml(text, "here")
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("a: &a {b: 1}\nc: &c {<<: *a, b: 2}\n<<: *c", {"a": {"b": 1}, "c": {"b": 2}, "b": 2}),
        (
            "a: &a {b: 1}\nc: &c {b: 2, d: 3}\ne: {<<: [*a, *c]}",
            {"a": {"b": 1}, "c": {"b": 2, "d": 3}, "e": {"b": 1, "d": 3}},
        ),
    ],
)
def test_merged_keys(text: str, expected: dict[str, Any]) -> None:
    assert parse_yaml(text, "here") == expected


def test_an_override_changes_one_place_only() -> None:
    for text in ("a: &a {b: {c: 1}}\nd: *a", "a: &a {b: {c: 1}}\nd: {<<: *a}"):
        tree = parse_yaml(text, "here")
        override(tree, "d.b.c=2")
        assert tree == {"a": {"b": {"c": 1}}, "d": {"b": {"c": 2}}}


def test_files(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    assert load_yaml(tmp_path / "empty.yaml") == {}
    with pytest.raises(RecipeError, match=r"holds a list; expected a mapping of keys to values"):
        load_yaml(tmp_path / "list.yaml")
    with pytest.raises(RecipeError, match=r"expected a UTF-8 YAML file"):
        load_yaml(tmp_path / "bytes.yaml")
    with pytest.raises(RecipeError, match=r"expected a UTF-8 YAML file"):
        load_yaml(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=2", {"a": {"b": 2}}),
        ("a.c=1e-2", {"a": {"b": 1, "c": 0.01}}),
        ("d.e.f=[1, x]", {"a": {"b": 1}, "d": {"e": {"f": [1, "x"]}}}),
        ("a=null", {"a": None}),
        ("g=a=b", {"a": {"b": 1}, "g": "a=b"}),
        ("g=''", {"a": {"b": 1}, "g": ""}),
        ("g={split}/*.jpg", {"a": {"b": 1}, "g": "{split}/*.jpg"}),
        ("g=*/{stem}.png", {"a": {"b": 1}, "g": "*/{stem}.png"}),
        ("g={x: 1}", {"a": {"b": 1}, "g": {"x": 1}}),
    ],
)
def test_overrides(text: str, expected: dict[str, Any]) -> None:
    tree: dict[str, Any] = {"a": {"b": 1}}
    override(tree, text)
    assert tree == expected


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", "a.=1", "a.b.c=1", "l.0=1", "a.b=[1", "a.b=", "a= "])
def test_overrides_that_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="override"):
        override({"a": {"b": 1}, "l": [1]}, text)


class Inner(Part):
    renamed: ClassVar[dict[str, str]] = {"slow": "lr"}
    lr: float = 1.0


class Outer(Part):
    renamed: ClassVar[dict[str, str]] = {"form": "scheme", "form: x86": "scheme: onnxruntime", "part": "inner"}
    scheme: str = ""
    inner: Inner = Inner()
    several: list[Inner] = Field([])


def test_an_old_key_is_an_error_that_names_the_new_one() -> None:
    with pytest.raises(RecipeError) as caught:
        validated(Outer, {"form": "x86", "inner": {"slow": 2.0}, "several": [{"slow": 1.0}], "other": 3}, "file.yaml")
    assert str(caught.value).splitlines() == [
        "file.yaml has 4 problems:",
        "  inner.slow: is now called 'lr'; rename it",
        "  several.0.slow: is now called 'lr'; rename it",
        "  form: is now called 'scheme: onnxruntime'; rename it",
        "  other: unknown key; allowed: scheme, inner, several",
    ]


def test_what_an_older_version_wrote_gets_its_new_names() -> None:
    old = {"form": "x86", "part": {"slow": 2.0}, "several": [{"slow": 3.0}, 4], "other": {"form": 1}}
    assert with_new_names(Outer, old) == {
        "scheme": "onnxruntime",
        "inner": {"lr": 2.0},
        "several": [{"lr": 3.0}, 4],
        "other": {"form": 1},
    }
    assert with_new_names(Outer, {"form": "trt"}) == {"scheme": "trt"}

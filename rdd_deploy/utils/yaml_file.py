"""Read YAML safely: no tags, no key twice, bounded in size and depth."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from rdd_deploy.errors import RecipeError
from rdd_deploy.utils.files import read_text

LARGEST_FILE = 256 * 1024
_DEEPEST, _MOST, _LONGEST_NUMBER = 32, 20_000, 40
"""Levels, values (those behind an alias each time it is used) and digits of a YAML text; none of ours comes near."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (YAML would silently keep the last), reads 1e-3 as a number, and stays
    small.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Each alias counts with all that it stands for: a few lines of them can mean more values than memory holds."""
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.constructor.ConstructorError(None, None, f"values are nested more than {_DEEPEST} deep", mark)
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and node not in self._sizes:
            raise yaml.constructor.ConstructorError(None, None, "an alias stands for what it is a part of", mark)
        size = self._sizes[node] = self._sizes[node] if is_alias else self._size(node)
        if size > _MOST:
            raise yaml.constructor.ConstructorError(None, None, f"aliases make more than {_MOST} values of it", mark)
        return node

    def _size(self, node: Any) -> int:
        if isinstance(node, yaml.MappingNode):
            return 1 + sum(self._sizes[one] for pair in node.value for one in pair)
        if isinstance(node, yaml.SequenceNode):
            return 1 + sum(self._sizes[one] for one in node.value)
        return 1 + len(node.value) // 64

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Keys are looked at as they are written: where a mapping is built, those merged in by ``<<`` stand beside its
        own.
        """
        node = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = key_node.value if merge else self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, str):
                written = f"'{key_node.value}'" if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {written} is read as {key!r:.60}; put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what ``<<`` merges beside a mapping's own keys, which win, as do earlier merged ones: PyYAML's versions
        differ in that.
        """
        own: list[tuple[Any, Any]] = []
        others: list[Any] = []
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                own.append((key, value))
            else:
                others += value.value if isinstance(value, yaml.SequenceNode) else [value]
        taken, merged = {key.value for key, _ in own}, []
        for other in others:
            if not isinstance(other, yaml.MappingNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "expected a mapping or list of mappings for merging", other.start_mark
                )
            self.flatten_mapping(other)
            merged += [(key, value) for key, value in other.value if key.value not in taken]
            taken |= {key.value for key, _ in other.value}
        node.value = merged + own


_Loader.add_implicit_resolver(  # type: ignore[no-untyped-call]
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > _LONGEST_NUMBER:
        raise yaml.constructor.ConstructorError(
            None, None, f"a number has {len(node.value)} characters", node.start_mark
        )
    _plain(node)
    return loader.construct_yaml_int(node)


def _real_number(loader: _Loader, node: yaml.ScalarNode) -> float:
    _plain(node)
    return loader.construct_yaml_float(node)


def _plain(node: yaml.ScalarNode) -> None:
    """Refuse what YAML 1.1 silently takes for another number: 012 is octal, 1:30 counts in sixties."""
    digits = node.value.lstrip("+-")
    octal = len(digits) > 1 and digits[0] == "0" and all(one in "01234567_" for one in digits)
    if octal or ":" in digits:
        raise yaml.constructor.ConstructorError(
            None,
            None,
            f"{node.value} is read as {'an octal number' if octal else 'a number in sixties'}; write it in decimal"
            " digits without a zero in front, or text in quotes",
            node.start_mark,
        )


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _real_number)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader; RecipeError with line and column for anything else."""
    try:
        text = read_text(path, LARGEST_FILE)
    except OSError as error:
        raise RecipeError(f"can't read {path}: {error.strerror or error}; expected a UTF-8 YAML file") from error
    tree = parse_yaml(text, str(path))
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds a {type(tree).__name__}; expected a mapping of keys to values")
    return tree


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text with the safe loader."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (
        yaml.YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:  # !!bool x is a KeyError
        problem = " ".join(str(error).split())
        raise RecipeError(f"{where} isn't valid YAML: {problem}") from error

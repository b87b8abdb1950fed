"""YAML or JSON as plain text values, with the line of each. Knows no key and no type.

A scalar stays the text that stands there, as it would on the command line: a model may be called
`no`, and `1e-3` is whatever its reader makes of it.
"""

import re
from dataclasses import dataclass
from typing import Any

import yaml

MAX_DEPTH = 4
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
_NULL = "tag:yaml.org,2002:null"

Place = tuple[str | int, ...]
"""Keys and indices that lead to a value from the top."""


class BadYaml(ValueError):
    """The text is no YAML that is read here. The message says where."""


@dataclass(frozen=True, slots=True)
class Marked:
    """Maps, lists, text and None; `lines` has the line, from 1, of each value or its key."""

    content: Any
    lines: dict[Place, int]

    def line(self, place: Place) -> int:
        """The line of a value; if it has none, that of the innermost around it which has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_yaml(text: str) -> Marked:
    """Raises `BadYaml`: no YAML, a key twice in one map, a key that is not text, or too deep."""
    if text.lstrip().startswith("{"):  # JSON may be indented by tabs, which YAML refuses
        text = _INDENT.sub(lambda indent: " " * len(indent[0]), text)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadYaml(f"{_line(mark)}it is neither YAML nor JSON: {error.problem}") from error
    except yaml.YAMLError as error:
        raise BadYaml(f"it is neither YAML nor JSON: {error}") from error
    except RecursionError as error:
        raise BadYaml("it is nested too deep") from error
    lines: dict[Place, int] = {}
    return Marked(None if node is None else _plain(node, (), lines), lines)


def _plain(node: yaml.Node, place: Place, lines: dict[Place, int]) -> Any:
    lines.setdefault(place, node.start_mark.line + 1)
    if len(place) > MAX_DEPTH:
        raise BadYaml(f"{_line(node.start_mark)}nested more than {MAX_DEPTH} deep")
    if isinstance(node, yaml.MappingNode):
        return _map(node, place, lines)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(value, (*place, i), lines) for i, value in enumerate(node.value)]
    return None if node.tag == _NULL else node.value


def _map(node: yaml.MappingNode, place: Place, lines: dict[Place, int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise BadYaml(f"{_line(key.start_mark)}a key is a list or a map")
        name = str(key.value)
        if name in found:
            path = ".".join(map(str, (*place, name)))
            raise BadYaml(f"{_line(key.start_mark)}{path} is given twice")
        lines[(*place, name)] = key.start_mark.line + 1
        found[name] = _plain(value, (*place, name), lines)
    return found


def _line(mark: yaml.Mark | None) -> str:
    return "" if mark is None else f"line {mark.line + 1}: "

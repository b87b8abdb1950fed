"""What clients ask an answer to obey, as grammars that llguidance reads. Compiles none."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark

from serve_app.errors import BadGrammar

WHITESPACE = r"(\x20|\x0A[\x20\x09]{0,60})?"
"""Between the signs of JSON: what pretty-printing writes. Bounded, as models may never stop."""
_OPTIONS = {"whitespace_flexible": False, "whitespace_pattern": WHITESPACE}
_HEAD = '%llguidance {"no_forcing": true}\n'
"""Text that is the only possible one may be any tokens: the model knows best which."""
_QUOTED = re.compile(r"""["']([^"']+)["']""")
_LISTING = re.compile(r"\n\s+\d+ \| ")
"""Where a message begins to show the grammar that it is about."""
_OF_A_SCHEMA = "failed to compile JSON schema: "


def source_of(kind: str, value: Any) -> str:
    """A whole grammar in the Lark dialect of llguidance, with the rule `start`.

    kind, value: see `Constraint`. Raises BadGrammar.
    """
    if kind == "json":
        return f"{_HEAD}start: {json_rule(value)}\n"
    if kind == "choice":
        return f"{_HEAD}start: {' | '.join(map(quoted, value))}\n"
    if kind == "regex":
        return f"{_HEAD}start: /{regex_to_lark(_unanchored(value), 'd')}/\n"
    return f"{_lark(value)}\n{_HEAD}"  # behind it, so that the client's lines keep their numbers


def json_rule(schema: Any) -> str:
    """What stands for JSON that obeys a schema, within a rule. Raises BadGrammar."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise BadGrammar("the schema is no JSON object")
    if "x-guidance" in schema:
        raise BadGrammar("the schema must not have the keyword 'x-guidance'")
    return f"%json {json.dumps({**schema, 'x-guidance': _OPTIONS}, ensure_ascii=False)}"


def quoted(text: str) -> str:
    """A text as it stands, within a rule."""
    return json.dumps(text, ensure_ascii=False)


def found_in(pattern: str) -> str:
    """A terminal for texts in which a pattern matches somewhere, as schemas have it."""
    inner = _unanchored(pattern)
    before = "" if pattern.startswith("^") else "(?s:.*)"
    after = "" if inner != pattern.removeprefix("^") else "(?s:.*)"
    return f"/{regex_to_lark(f'{before}({inner}){after}', 'd')}/"


def joined(main: str, others: Mapping[str, str]) -> str:
    """A grammar whose rules may name others as `@name`."""
    if not others:
        return _HEAD + main
    each = [{"name": name, "lark_grammar": source} for name, source in others.items()]
    return json.dumps({"grammars": [{"lark_grammar": _HEAD + main}, *each]}, ensure_ascii=False)


def explained(message: str, kind: str, value: Any) -> str:
    """What llguidance says is wrong, in one line, and where, if that is a part of a schema."""
    line = " ".join(_LISTING.split(message)[0].split())
    if kind != "json":
        return line
    line = line.rpartition(_OF_A_SCHEMA)[2]
    found = next((at for word in _words(line) if (at := _pointer(value, word)) is not None), None)
    return line if found is None else f"{line}, at #{found}"


def _words(message: str) -> list[str]:
    return [*_QUOTED.findall(message), message.rpartition(": ")[2], *_special(message)]


def _special(message: str) -> Sequence[str]:
    for start, keyword in (("oneOf", "oneOf"), ("min/maxProperties", "minProperties")):
        if message.startswith(start):
            return (keyword, "maxProperties")
    return ()


def _pointer(schema: Any, word: str, at: str = "") -> str | None:
    """Where a schema first has this keyword, or this value of one."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(schema, dict):
        pairs = list(schema.items())
    elif isinstance(schema, list):
        pairs = [(str(index), each) for index, each in enumerate(schema)]
    for name, each in pairs:
        here = f"{at}/{name.replace('~', '~0').replace('/', '~1')}"
        if name == word or each in (word, f"#{word}"):
            return here
        below = _pointer(each, word, here)
        if below is not None:
            return below
    return None


def _unanchored(pattern: str) -> str:
    """The whole text matches, so that anchors at its ends say nothing."""
    inner = pattern.removeprefix("^")
    return inner[:-1] if inner.endswith("$") and not inner.endswith(r"\$") else inner


def _lark(text: str) -> str:
    """The dialect of Lark, or GBNF."""
    try:
        return str(any_to_lark(text))
    except Exception as error:  # a converter of somebody else's
        raise BadGrammar(f"it is neither Lark nor GBNF: {error}") from error

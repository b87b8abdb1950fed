"""Reads a file of options by name, and says where a fault of it is. Knows no option."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from serve_app.cli.errors import WrongUse
from serve_app.cli.recipes.marked_yaml import BadYaml, Marked, read_yaml

_WORDS = {
    "dict_type": "it is not a map: lines of NAME: VALUE below it",
    "list_type": "it is not a list: lines of - VALUE below it",
    "tuple_type": "it is not a list: lines of - VALUE below it",
    "string_type": "it is not a single value",
    "model_type": "it is not a map: lines of KEY: VALUE",
}


def read_options_file(path: Path, kind: str) -> Marked:
    """kind: how errors call the file. Raises `WrongUse`, which names the file, for what is no YAML
    or JSON, or empty.
    """
    try:
        marked = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise WrongUse(f"{kind} {path}: {why}") from error
    except BadYaml as error:
        raise WrongUse(f"{kind} {path}: {error}") from error
    if marked.content is None:
        raise WrongUse(f"{kind} {path}: it is empty")
    return marked


def first_fault(error: ValidationError, marked: Marked, keys: Iterable[str]) -> str:
    """The line, the key and what is wrong.   keys: those that the file may have."""
    first = error.errors(include_url=False)[0]
    place = tuple(step for step in first["loc"] if step != "[key]")
    words = _WORDS.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["input"] is None:
        words = "it has no value"
    if first["type"] == "extra_forbidden":
        others = f"; there are {', '.join(keys)}" if len(place) == 1 else ""
        words = f"there is no such key{others}"
    key = ".".join(map(str, place))
    return f"line {marked.line(place)}: {key}{': ' if key else ''}{words}"

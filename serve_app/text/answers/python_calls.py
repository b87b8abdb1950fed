"""Reads calls written as Python has them: `[f(a=1), g()]`, or a line each. Runs nothing."""

import ast
import math
import warnings
from collections.abc import Iterator
from typing import Any

_LONGEST = 65_536
"""Characters that are read."""
_NAMES: dict[str, Any] = {"true": True, "false": False, "null": None}


def python_calls(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names of functions, and their arguments, which are literals of Python or of JSON.

    Raises ValueError for anything else, before a call was given.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"calls of {len(text)} characters: at most {_LONGEST} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python has no use for, as in '\d'
            parsed = ast.parse(text.strip())
        found = [_call(node) for line in parsed.body for node in _listed(line)]
    except (MemoryError, RecursionError, SyntaxError) as error:
        raise ValueError("the calls are not as Python writes them") from error
    if not found:
        raise ValueError("there is no call")
    return iter(found)


def _listed(line: ast.stmt) -> list[ast.expr]:
    if not isinstance(line, ast.Expr):
        raise ValueError("a line is no call")
    return line.value.elts if isinstance(line.value, ast.List) else [line.value]


def _call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("a call names each of its arguments")
    arguments: dict[str, Any] = {}
    for given in node.keywords:
        if given.arg is None:
            raise ValueError("a call names each of its arguments")
        arguments[given.arg] = _value(given.value)
    return _name(node.func), arguments


def _name(node: ast.expr) -> str:
    """A name may have dots."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError("a function has no name")


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | str() as value):
            return value
        case ast.Constant(value=float() as value) if math.isfinite(value):
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(each) for key, each in zip(keys, values, strict=True)}
    raise ValueError("an argument is no literal")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("a key is no text")

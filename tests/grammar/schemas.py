"""Made-up JSON schemas of varied features. All that they allow is of bounded length."""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
_PATTERNS = (r"^[A-Z]{2}-[0-9]{1,4}$", r"^(red|green|blue)(-light)?$", r"^[a-f0-9]{8}$")
_FORMATS = ("date", "ipv4", "uuid", "time")
_NAMES = ("id", "name", "tags", "size", "kind", "note", "at", "parts", "of", "é")


def made_up(seed: int) -> Schema:
    """An object in whose schema most keywords may come. The same for the same seed."""
    rng = random.Random(seed)
    schema = _object(rng, 3)
    if rng.random() < 0.5:
        schema["$defs"] = {"part": _object(rng, 1)}
        schema["properties"]["ref"] = {"$ref": "#/$defs/part"}
        schema["required"] = [*schema["required"], "ref"]
    return schema


def _any(rng: random.Random, depth: int) -> Schema:
    leaves: list[Callable[[random.Random], Schema]] = [_string, _number, _enum, _const, _plain]
    if depth == 0 or rng.random() < 0.5:
        return rng.choice(leaves)(rng)
    branch = rng.choice((_object, _array, _either))
    return branch(rng, depth - 1)


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(_NAMES, rng.randint(1, 4))
    schema: Schema = {
        "type": "object",
        "properties": {name: _any(rng, depth) for name in names},
        "required": rng.sample(names, rng.randint(0, len(names))),
        "additionalProperties": False,
    }
    if rng.random() < 0.2:
        schema["required"] = names
        schema["additionalProperties"] = {"type": "integer", "minimum": 0, "maximum": 9}
        schema["maxProperties"] = len(names) + 2
    return schema


def _array(rng: random.Random, depth: int) -> Schema:
    least = rng.randint(0, 2)
    schema: Schema = {"type": "array", "items": _any(rng, depth), "maxItems": least + 2}
    if least:
        schema["minItems"] = least
    if rng.random() < 0.2:
        schema["prefixItems"] = [_any(rng, 0)]
    return schema


def _either(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(rng, depth), _any(rng, 0), {"type": "null"}]}


def _string(rng: random.Random) -> Schema:
    made: Schema = {"type": "string"}
    match rng.randrange(3):
        case 0:
            least = rng.randint(0, 3)
            made |= {"minLength": least, "maxLength": least + rng.randint(0, 9)}
        case 1:
            made["pattern"] = rng.choice(_PATTERNS)
        case _:
            made["format"] = rng.choice(_FORMATS)
    return made


def _number(rng: random.Random) -> Schema:
    low = rng.randint(-50, 50)
    made: Schema = {"type": "integer", "minimum": low, "maximum": low + rng.randint(1, 500)}
    if rng.random() < 0.3:
        made["exclusiveMaximum"] = made.pop("maximum")
    elif rng.random() < 0.3:
        made = {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": rng.choice((2, 5))}
    return made


def _enum(rng: random.Random) -> Schema:
    return {"enum": rng.sample(["a", "ab", 'q"', 1, 2.5, None, True, "日本"], rng.randint(1, 4))}


def _const(rng: random.Random) -> Schema:
    return {"const": rng.choice(["fixed", 7, False, {"a": [1, "x"]}])}


def _plain(rng: random.Random) -> Schema:
    return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}

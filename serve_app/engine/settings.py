"""Parses and checks a setting, given as a value or as text. `config.py` lists the settings."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SIZE_PATTERN = r"(\d+(?:\.\d+)?) ?(?:([kKmMgGtT])([iI][bB]?|[bB])?|[bB])?"
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_SWITCHES = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """How to parse a field, and what help says about it.

    read: turns a value, or its text, into the value; raises ValueError with what is wrong.
    metavar: stands for the text in help.   help: a sentence.   unset: what None means, if it is
    the default.
    """

    read: Callable[[object], Any]
    metavar: str
    help: str
    unset: str = ""


def num_bytes(value: object) -> int:
    """Bytes: a number, alone or with a unit (`24GiB`, `500MB`, `8g`; G is GiB, GB is 10^9).

    Raises: ValueError if it is not such a number, or is less than one byte.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        match = re.fullmatch(SIZE_PATTERN, str(value).strip())
        if match is None:
            raise ValueError(f"{value!r} is not a size: give bytes, or 24GiB, 500MB, …")
        base = 1000 if (match[3] or "").lower() == "b" else 1024
        number = int(float(match[1]) * base ** _POWERS.get((match[2] or "").lower(), 0))
    if number < 1:
        raise ValueError(f"{value!r} is not more than 0 bytes")
    return number


def count(value: object) -> int:
    """A whole number of at least 1. Raises: ValueError if it is not one."""
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]+", text):
        raise ValueError(f"{value!r} is not a whole number")
    if int(text) < 1:
        raise ValueError(f"{value!r} is less than 1")
    return int(text)


def seconds(value: object) -> float:
    """A time. Raises: ValueError if it is not a finite number above 0."""
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a number of seconds")
    if number <= 0:
        raise ValueError(f"{value!r} is not more than 0 seconds")
    return number


def switch(value: object) -> bool:
    """On or off. Raises: ValueError if it is neither."""
    found = _SWITCHES.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"{value!r} is neither true nor false")
    return found


def one_of(*choices: str) -> Callable[[object], str]:
    """Reads one of several words, and raises ValueError for any other."""

    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return str(value)

    return read

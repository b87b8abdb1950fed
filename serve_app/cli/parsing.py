"""Parses the values of options. `options.py` lists the options."""

import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import typer

from consolidation.sources.local_sources import found_from
from consolidation.sources.model_source import BadSource, Kind, ModelSource, read_source
from representation.names import NAME_RULE, valid_name
from serve_app.engine.settings import count, num_bytes
from serve_app.units import in_utc

T = TypeVar("T")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"([0-9]+)([smhd])")
_LONGEST_DAYS = 36500
"""Of a time that is given: a moment so far from now is still a date."""


def parse_name(value: str) -> str:
    """The name of a family or channel; it becomes a part of a path.

    Raises:
        typer.BadParameter: it is empty, holds another character, or starts with a sign.
    """
    if not valid_name(value):
        raise typer.BadParameter(f"{value!r} is not a name: {NAME_RULE}")
    return value


def parse_registry(value: str) -> str:
    """A directory, which need not exist yet, or an fsspec address.

    Raises:
        typer.BadParameter: it is empty, or a file, or an address that cannot be used.
    """
    if "://" in value:
        _check_address(value)
    elif not value or Path(value).is_file():
        raise typer.BadParameter(f"{value!r} is not a directory")
    return value


def _check_address(url: str) -> None:
    import fsspec

    protocol = url.partition("://")[0].partition("::")[0]
    if protocol == "memory":
        raise typer.BadParameter(f"{url!r}: only one process can see its own memory")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        from consolidation.release.storage import missing_package

        raise typer.BadParameter(missing_package(url, error)) from error
    except ValueError as error:
        raise typer.BadParameter(f"{url!r}: {error}") from error


def parse_models(values: list[str], *, hint: str = "--model") -> dict[str, ModelSource]:
    """`NAME=SOURCE` pairs, in the order given. `model_source` has the grammar of a source.

    Raises:
        typer.BadParameter: a value is not such a pair, its name is malformed or given twice, or
            its source is malformed or not there.
    """
    pairs = _parse_pairs(values, "SOURCE", hint=hint)
    found = {}
    for name, source in pairs.items():
        try:
            found[name] = parse_source(source, hint=hint)
        except typer.BadParameter as error:
            raise typer.BadParameter(f"model {name!r}: {error.message}", param_hint=hint) from error
    return found


def parse_model_files(values: list[str], *, suffixes: Sequence[str], hint: str) -> dict[str, Path]:
    """`NAME=FILE` pairs, in the order given, of files that end in one of `suffixes`.

    Raises:
        typer.BadParameter: a value is not such a pair, its name is malformed or given twice, or
            its file does not exist or is of another kind.
    """
    files: dict[str, Path] = {}
    for name, value in _parse_pairs(values, "FILE", hint=hint).items():
        path = Path(value).expanduser()
        if not path.is_file():
            raise typer.BadParameter(f"model {name!r}: {value!r} is not a file", param_hint=hint)
        if path.suffix not in suffixes:
            wanted = " or ".join(suffixes)
            raise typer.BadParameter(
                f"model {name!r}: {value!r} is not a {wanted} file", param_hint=hint
            )
        files[name] = path
    return files


def parse_weights(values: list[str], *, hint: str) -> dict[str, float]:
    """`NAME=W` pairs of positive numbers, in the order given.

    Raises:
        typer.BadParameter: a value is not such a pair, or no such number, or its name is given
            twice.
    """
    weights = {}
    for name, value in _parse_pairs(values, "W", hint=hint).items():
        try:
            weights[name] = parse_positive(value)
        except typer.BadParameter as error:
            raise typer.BadParameter(f"model {name!r}: {error}", param_hint=hint) from error
    return weights


def parse_numbers(values: list[str], *, hint: str) -> dict[str, float]:
    """`NAME=X` pairs of numbers, in the order given.

    Raises:
        typer.BadParameter: a value is not such a pair, or its name is given twice.
    """
    found: dict[str, float] = {}
    for value in values:
        name, equals, given = value.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{value!r} is not NAME=X", param_hint=hint)
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice", param_hint=hint)
        try:
            found[name] = _number(given)
        except typer.BadParameter as error:
            raise typer.BadParameter(f"{name}: {error}", param_hint=hint) from error
    return found


def parse_calibration(values: list[str], *, hint: str) -> tuple[tuple[str | None, Path], ...]:
    """`[NAME=]FILE`, in the order given; a file without a name is for all models.

    Raises:
        typer.BadParameter: a file does not exist, or a name is malformed.
    """
    found: list[tuple[str | None, Path]] = []
    for value in values:
        name, equals, rest = value.partition("=")
        if Path(value).is_file() or not equals:
            name, rest = "", value
        elif not valid_name(name):
            raise typer.BadParameter(
                f"{value!r} is not a file, and {name!r} is not a model name", param_hint=hint
            )
        path = Path(rest).expanduser()
        if not path.is_file():
            raise typer.BadParameter(f"{value!r}: {rest!r} is not a file", param_hint=hint)
        found.append((name or None, path))
    return tuple(found)


def _parse_pairs(values: list[str], what: str, *, hint: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for value in values:
        name, equals, given = value.partition("=")
        if not equals or not given:
            raise typer.BadParameter(f"{value!r} is not NAME={what}", param_hint=hint)
        if not valid_name(name):
            raise typer.BadParameter(
                f"{value!r}: {name!r} is not a model name: {NAME_RULE}", param_hint=hint
            )
        if name in pairs:
            raise typer.BadParameter(f"{value!r}: model {name!r} is given twice", param_hint=hint)
        pairs[name] = given
    return pairs


def parse_source(value: str, *, hint: str) -> ModelSource:
    """Where a model comes from.

    Raises:
        typer.BadParameter: the value says it wrongly, or a path is not a directory.
    """
    try:
        source = read_source(value, found_from(Path.cwd()))
    except BadSource as error:
        raise typer.BadParameter(str(error), param_hint=hint) from error
    for one in (source, source.adapter):
        if one and one.kind is Kind.DIRECTORY and not Path(one.source).is_dir():
            raise typer.BadParameter(f"{one.source!r} is not a directory", param_hint=hint)
    return source


def parser_of(read: Callable[[object], T]) -> Callable[[object], T]:
    """Parses like a setting, and reports errors like the command line."""

    def parse(value: object) -> T:
        try:
            return read(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return parse


parse_size = parser_of(num_bytes)
parse_count = parser_of(count)


def parse_port(value: str | int) -> int:
    """A TCP port. The default of an option is a number already.

    Raises:
        typer.BadParameter: it is not a whole number from 1 to 65535.
    """
    text = str(value)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise typer.BadParameter(f"{text!r} is not a port: a whole number from 1 to 65535")
    return int(text)


def parse_free_port(value: str | int) -> int:
    """A TCP port, or 0 for any that is free.

    Raises:
        typer.BadParameter: it is not a whole number up to 65535.
    """
    return 0 if str(value) == "0" else parse_port(value)


def parse_positive(value: str) -> float:
    """A number above 0.

    Raises:
        typer.BadParameter: it is not a number above 0.
    """
    number = _number(value)
    if not number > 0:
        raise typer.BadParameter(f"{value!r} is not more than 0")
    return number


def parse_limit(value: str) -> float:
    """The limit of a quality measure: a number of at least 0.

    Raises:
        typer.BadParameter: it is not a number of 0 or more.
    """
    limit = _number(value)
    if limit < 0:
        raise typer.BadParameter(f"{value!r} is less than 0")
    return limit


def parse_percent(value: str | float) -> float:
    """A number from 0 to 100. The default of an option is a number already.

    Raises:
        typer.BadParameter: it is not.
    """
    number = _number(str(value).removesuffix("%"))
    if not 0 <= number <= 100:
        raise typer.BadParameter(f"{value!r} is not a number from 0 to 100")
    return number


def parse_moment(value: str, *, hint: str) -> datetime:
    """A date or a time in ISO 8601; UTC if it names no zone.

    Raises:
        typer.BadParameter: it is not such a time.
    """
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise typer.BadParameter(
            f"{value!r} is not a date such as 2027-01-31", param_hint=hint
        ) from error
    return in_utc(moment)


def parse_span(value: str, *, hint: str) -> float:
    """A time such as 90s, 30m, 24h or 7d, in seconds.

    Raises:
        typer.BadParameter: it is not such a time.
    """
    match = _SPAN.fullmatch(value)
    if match is None:
        raise typer.BadParameter(f"{value!r} is not a time such as 30m, 24h or 7d", param_hint=hint)
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST_DAYS * _SECONDS["d"]:
        raise typer.BadParameter(f"{value!r} is more than {_LONGEST_DAYS}d", param_hint=hint)
    return seconds


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"{value!r} is not a number")
    return number

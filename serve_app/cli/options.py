"""Options that several commands share, and how their values are read. Runs no command."""

import math
import re
from pathlib import Path
from typing import Annotated

import typer

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(ib?|b)?|b)?", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


def parse_name(value: str) -> str:
    """The name of a family or channel; it becomes a part of a path.

    Raises:
        typer.BadParameter: it is empty, holds another character, or starts with a sign.
    """
    if not _NAME.fullmatch(value):
        raise typer.BadParameter(
            f"{value!r} is not a name: a letter or digit, then letters, digits, '.', '_', ':', '-'"
        )
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
        raise typer.BadParameter(f"{url!r}: what is in memory is seen by one process only")
    try:
        fsspec.get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        raise typer.BadParameter(f"{url!r}: {error}") from error


def parse_models(values: list[str], *, hint: str = "--model") -> dict[str, Path]:
    """`NAME=CHECKPOINT_DIR` pairs, in the order given.

    Raises:
        typer.BadParameter: a value is not such a pair, its name is malformed or given twice, or
            its directory does not exist.
    """
    pairs = _parse_pairs(values, "CHECKPOINT_DIR", hint=hint)
    return {name: parse_checkpoint(directory, hint=hint) for name, directory in pairs.items()}


def parse_model_files(values: list[str], *, suffix: str, hint: str) -> dict[str, Path]:
    """`NAME=FILE` pairs, in the order given, of files that end in `suffix`.

    Raises:
        typer.BadParameter: a value is not such a pair, its name is malformed or given twice, or
            its file does not exist or is of another kind.
    """
    files: dict[str, Path] = {}
    for name, value in _parse_pairs(values, f"FILE{suffix}", hint=hint).items():
        path = Path(value).expanduser()
        if not path.is_file():
            raise typer.BadParameter(f"model {name!r}: {value!r} is not a file", param_hint=hint)
        if path.suffix != suffix:
            raise typer.BadParameter(
                f"model {name!r}: {value!r} is not a {suffix} file", param_hint=hint
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
        elif not _NAME.fullmatch(name):
            raise typer.BadParameter(f"{value!r}: {name!r} is not a model name", param_hint=hint)
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
        if not _NAME.fullmatch(name):
            raise typer.BadParameter(
                f"{value!r}: {name!r} is not a model name: "
                "a letter or digit, then letters, digits, '.', '_', ':', '-'",
                param_hint=hint,
            )
        if name in pairs:
            raise typer.BadParameter(f"{value!r}: model {name!r} is given twice", param_hint=hint)
        pairs[name] = given
    return pairs


def parse_checkpoint(value: str, *, hint: str) -> Path:
    """A checkpoint directory that exists.

    Raises:
        typer.BadParameter: it does not.
    """
    directory = Path(value).expanduser()
    if not directory.is_dir():
        raise typer.BadParameter(f"{value!r} is not a directory", param_hint=hint)
    return directory


def parse_size(value: str) -> int:
    """Bytes: a number, alone or with a unit (`24GiB`, `500MB`, `8g`; G is GiB, GB is 10^9).

    Raises:
        typer.BadParameter: it is not such a number, or is zero.
    """
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise typer.BadParameter(f"{value!r} is not a size: give bytes, or 24GiB, 500MB, …")
    base = 1000 if (match[3] or "").lower() == "b" else 1024
    unit = base ** _POWERS.get((match[2] or "").lower(), 0)
    num_bytes = int(float(match[1]) * unit)
    if num_bytes <= 0:
        raise typer.BadParameter(f"{value!r} is not more than 0 bytes")
    return num_bytes


def parse_port(value: str | int) -> int:
    """A TCP port. An option's default comes as it is.

    Raises:
        typer.BadParameter: it is not a whole number from 1 to 65535.
    """
    text = str(value)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise typer.BadParameter(f"{text!r} is not a port: a whole number from 1 to 65535")
    return int(text)


def parse_positive(value: str) -> float:
    """A number that says how much of something there is to be.

    Raises:
        typer.BadParameter: it is not a number above 0.
    """
    number = _number(value)
    if not number > 0:
        raise typer.BadParameter(f"{value!r} is not more than 0")
    return number


def parse_limit(value: str) -> float:
    """The most that a measure of quality may be.

    Raises:
        typer.BadParameter: it is not a number of 0 or more.
    """
    limit = _number(value)
    if limit < 0:
        raise typer.BadParameter(f"{value!r} is less than 0")
    return limit


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"{value!r} is not a number")
    return number


Family = Annotated[
    str,
    typer.Option("--family", metavar="F", parser=parse_name, help="Name of the model family."),
]
RegistryUrl = Annotated[
    str,
    typer.Option(
        "--registry",
        metavar="DIR",
        parser=parse_registry,
        help="Where releases are: a directory, or an fsspec address.",
    ),
]
Release = Annotated[
    str | None,
    typer.Argument(
        metavar="[RELEASE]",
        show_default=False,
        help="Id of a release, the beginning of one, or a channel. "
        "Default: the stable channel's, or the newest.",
    ),
]
RequiredRelease = Annotated[
    str,
    typer.Argument(metavar="RELEASE", help="Id of a release, the beginning of one, or a channel."),
]
Channel = Annotated[
    str,
    typer.Option("--channel", metavar="C", parser=parse_name, help="Name of the channel."),
]
DeviceMemory = Annotated[
    int | None,
    typer.Option(
        "--device-memory",
        metavar="BYTES",
        parser=parse_size,
        show_default=False,
        help="Most memory the engine may take, for example 24GiB or 500MB.",
    ),
]
HostMemory = Annotated[
    int | None,
    typer.Option(
        "--host-memory",
        metavar="BYTES",
        parser=parse_size,
        show_default=False,
        help="Most host memory for copies of backbones, for example 64GiB. Default: for all.",
    ),
]
NoCudaGraphs = Annotated[
    bool, typer.Option("--no-cuda-graphs", help="Launch every step anew, on CUDA too.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", show_default=False, help="The checkpoint they were all fine-tuned from."
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="MODEL=FILE.jsonl",
        show_default=False,
        help="Questions of a model: an object with prompt and completion on each line.",
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="MODEL=FILE.txt", show_default=False, help="Running text of a model."
    ),
]
MaxAccuracyDrop = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        parser=parse_limit,
        show_default=False,
        help="Publish no model that is right in a share of its task less by more (0.01: a point).",
    ),
]
MaxPerplexityRise = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        parser=parse_limit,
        show_default=False,
        help="Publish no model whose perplexity on its text rises by more (0.01: one percent).",
    ),
]

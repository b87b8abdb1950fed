"""What a file for `serve` says: settings by the names that `args` of Ray Serve have.

family: chat
registry: ./registry
device_memory: 24GiB
drain_s: 60
limits: {body_bytes: 1000000}

Paths are relative to the directory of the file.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import AfterValidator, Field, ValidationError

from representation.names import NAME_RULE, valid_name
from serve_app.cli.errors import WrongUse
from serve_app.cli.recipes.options_file import first_fault, read_options_file
from serve_app.config import ServeConfig
from serve_app.engine.config import SETTINGS
from serve_app.errors import ConfigError

PATHS = ("registry", "keys", "usage", "response_template")


def _name(value: str) -> str:
    if not valid_name(value):
        raise ValueError(f"{value!r} is not a name: {NAME_RULE}")
    return value


class ServeFile(ServeConfig):
    """A whole file: the endpoint, where it listens, and what it follows."""

    channel: Annotated[str, AfterValidator(_name)] = "stable"
    port: int = Field(default=8000, ge=1, le=65535)
    host: str = Field(default="127.0.0.1", min_length=1)
    ingresses: int | None = Field(default=None, ge=1)

    @classmethod
    def keys_of_file(cls) -> list[str]:
        """Those that a file may have."""
        return [*(name for name in cls.model_fields if name != "engine"), *SETTINGS]


def take(context: typer.Context, path: Path | None) -> dict[str, Any]:
    """The file's values stand in for options that are not given. Returns those that have none.

    Raises `WrongUse`, which names the file, and the line and the key if it has them.
    """
    if path is None:
        return {}
    marked = read_options_file(path, "config")
    given = marked.content
    try:
        if isinstance(given, dict) and "engine" in given:
            raise ConfigError("engine: there is no such key; its settings stand beside the others")
        found = ServeFile.model_validate(given)
    except ValidationError as error:
        fault = first_fault(error, marked, ServeFile.keys_of_file())
        raise WrongUse(f"config {path}: {fault}") from error
    except ConfigError as error:
        line = marked.line((str(error).partition(":")[0],))
        raise WrongUse(f"config {path}: line {line}: {error}") from error
    directory = path.expanduser().absolute().parent
    for name in PATHS:
        if name in given and "://" not in given[name]:
            given[name] = str(Path(directory, Path(given[name]).expanduser()))
    options = {one.name for one in context.command.params}
    context.default_map = {name: value for name, value in given.items() if name in options}
    return {name: getattr(found, name) for name in given if name not in options}

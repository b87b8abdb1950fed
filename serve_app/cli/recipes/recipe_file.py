"""What a recipe file says: options of `consolidate` by name. Reads text; opens nothing it names.

family: chat
registry: ./registry
models:
  math: ../math
expert_budget: 0.75

Values have the forms of the command line and are read by its parsers. Paths are relative to the
directory of the file. Models that a value names, and what goes with what, the command checks.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)

from consolidation.sources.local_sources import found_from
from consolidation.sources.model_source import NoDirectory, read_source
from representation.names import NAME_PATTERN
from serve_app.cli.computing.computing_device import DEVICE_PATTERN, parse_device
from serve_app.cli.errors import WrongUse
from serve_app.cli.parsing import (
    parse_count,
    parse_limit,
    parse_name,
    parse_positive,
    parse_registry,
    parse_size,
    parser_of,
)
from serve_app.cli.recipes.options_file import first_fault, read_options_file
from serve_app.engine.settings import SIZE_PATTERN, switch

PARAMETERS = {"models": "model", "weights": "weight", "tasks": "task", "texts": "text"}
"""Parameters of the command by key, where the key is the plural."""

_DIRECTORY = "directory"


def _read_by(parse: Callable[[str], Any]) -> AfterValidator:
    """The text stays as it is if the parser of the option takes it."""
    return AfterValidator(lambda value: _checked(value, parse))


def _checked(value: str, parse: Callable[[str], Any]) -> str:
    try:
        parse(value)
    except typer.BadParameter as error:
        raise ValueError(error.message) from error
    return value


def _from_directory(value: str, info: ValidationInfo) -> str:
    if not value:
        raise ValueError("no path is given")
    try:
        return str(Path((info.context or {})[_DIRECTORY], Path(value).expanduser()))
    except RuntimeError as error:  # ~user, whom the system does not know
        raise ValueError(f"{value!r}: {error}") from error


def _address(value: str, info: ValidationInfo) -> str:
    return value if "://" in value else _from_directory(value, info)


def _source(value: str, info: ValidationInfo) -> str:
    """A source that means the same from any directory. One that is not there, the command finds."""
    try:
        return str(read_source(value, found_from((info.context or {})[_DIRECTORY])))
    except NoDirectory:
        return _from_directory(value, info)


def _calibration(value: object, info: ValidationInfo) -> str:
    if isinstance(value, str):
        return _from_directory(value, info)
    if isinstance(value, dict) and len(value) == 1:
        [(model, file)] = value.items()
        if isinstance(file, str):
            return f"{_checked(model, parse_name)}={_from_directory(file, info)}"
    raise ValueError("it is neither FILE nor MODEL: FILE")


def _numbers(**bound: float) -> WithJsonSchema:
    return WithJsonSchema({"type": "number", **bound})


def _text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^({pattern})$"}


_NOT_EMPTY = WithJsonSchema({"type": "string", "minLength": 1})
Name = Annotated[str, _read_by(parse_name), WithJsonSchema(_text(NAME_PATTERN))]
Source = Annotated[str, AfterValidator(_source), _NOT_EMPTY]
LocalPath = Annotated[str, AfterValidator(_from_directory), _NOT_EMPTY]
Address = Annotated[str, AfterValidator(_address), _read_by(parse_registry), _NOT_EMPTY]
Positive = Annotated[str, _read_by(parse_positive), _numbers(exclusiveMinimum=0)]
Limit = Annotated[str, _read_by(parse_limit), _numbers(minimum=0)]
_BYTES = {"type": "integer", "minimum": 1}
Size = Annotated[
    str, _read_by(parse_size), WithJsonSchema({"anyOf": [_BYTES, _text(SIZE_PATTERN)]})
]
Count = Annotated[str, _read_by(parse_count), WithJsonSchema({"type": "integer", "minimum": 1})]
Device = Annotated[str, _read_by(parse_device), WithJsonSchema(_text(DEVICE_PATTERN))]
Switch = Annotated[str, _read_by(parser_of(switch)), WithJsonSchema({"type": "boolean"})]
_OF_MODEL = {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1}
CalibrationItem = Annotated[
    str,
    PlainValidator(_calibration),
    WithJsonSchema({"anyOf": [{"type": "string"}, {**_OF_MODEL, "minProperties": 1}]}),
]


class RecipeFile(BaseModel):
    """A whole file; paths are absolute once it is read. None: not given."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Recipe of expertpool consolidate")

    family: Name | None = None
    registry: Address | None = None
    channel: Name | None = None
    models: dict[Name, Source] | None = None
    base: Source | None = None
    extend: str | None = None
    remove: list[Name] | None = None
    expert_budget: Positive | None = None
    target_kl: Positive | None = None
    device_memory: Size | None = None
    max_formats: Count | None = None
    weights: dict[Name, Positive] | None = None
    exact: list[Name] | None = None
    noise_floor: Switch | None = None
    calibration: list[CalibrationItem] | None = None
    tasks: dict[Name, LocalPath] | None = None
    texts: dict[Name, LocalPath] | None = None
    max_kl: Limit | None = None
    max_accuracy_drop: Limit | None = None
    max_perplexity_rise: Limit | None = None
    min_retained: Limit | None = None
    device: Device | None = None

    def as_options(self) -> dict[str, str | list[str]]:
        """Texts by parameter of the command, as the command line would give them."""
        found: dict[str, str | list[str]] = {}
        for key, value in self.model_dump(exclude_none=True).items():
            name = PARAMETERS.get(key, key)
            is_map = isinstance(value, dict)
            found[name] = [f"{model}={one}" for model, one in value.items()] if is_map else value
        return found


def read_recipe_file(path: Path) -> RecipeFile:
    """Raises `WrongUse`, which names the file, and the line and the key if it has them."""
    marked = read_options_file(path, "recipe")
    try:
        directory = path.expanduser().absolute().parent
        return RecipeFile.model_validate(marked.content, context={_DIRECTORY: directory})
    except ValidationError as error:
        fault = first_fault(error, marked, RecipeFile.model_fields)
        raise WrongUse(f"recipe {path}: {fault}") from error


def json_schema(help_of: Mapping[str, str]) -> dict[str, Any]:
    """The JSON schema of a recipe, for editors.   help_of: by parameter of the command."""
    schema = RecipeFile.model_json_schema()
    schema["description"] = "Options of `expertpool consolidate`; paths are relative to this file."
    for key, found in schema["properties"].items():
        for one in found["anyOf"]:
            if "patternProperties" in one:  # of maps by names
                one["additionalProperties"] = False
        found.pop("title", None)
        found.pop("default", None)
        found["description"] = help_of[PARAMETERS.get(key, key)]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

"""The options of an engine, one for each field of `EngineConfig`. Defines no setting itself."""

import inspect
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import typer

from serve_app.cli.parsing import parser_of
from serve_app.engine.config import SETTINGS, EngineConfig

PANEL = "Engine"
_DEFAULTS = {field.name: field.default for field in fields(EngineConfig)}
_KINDS = get_type_hints(EngineConfig)


def engine_options(
    *, without: Collection[str] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of an engine, and passes it their values as `engine`.

    without: fields that the command sets itself.   defaults: other defaults than the engine's.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "engine"
        ]
        names = [name for name in SETTINGS if name not in without]
        added = [_parameter(name, (_DEFAULTS | defaults)[name]) for name in names]

        def carry_out(**given: Any) -> None:
            settings = {name: given.pop(name) for name in names}
            command(**given, engine=EngineConfig(**settings))

        carry_out.__doc__ = command.__doc__
        carry_out.__name__ = command.__name__
        carry_out.__module__ = command.__module__
        carry_out.__annotations__ = {each.name: each.annotation for each in own + added}
        vars(carry_out)["__signature__"] = inspect.Signature(own + added)
        return carry_out

    return give


def given_options(engine: EngineConfig) -> list[str]:
    """The options whose values are not the engine's defaults."""
    settings = {name: getattr(engine, name) for name in _DEFAULTS}
    return [option_of(name) for name, value in settings.items() if value != _DEFAULTS[name]]


def option_of(field: str) -> str:
    """`device_memory`: `--device-memory`. The help says that a time is in seconds."""
    return "--" + field.removesuffix("_s").replace("_", "-")


def _parameter(name: str, default: Any) -> inspect.Parameter:
    setting, kind = SETTINGS[name], _KINDS[name]
    is_switch = bool in (kind, *get_args(kind))
    option = option_of(name)
    declared = typer.Option(
        default,
        f"{option}/--no-{option[2:]}" if is_switch else option,
        parser=None if is_switch else parser_of(setting.read),
        metavar="" if is_switch else setting.metavar,
        help=setting.help if default is not None else f"{setting.help} Default: {setting.unset}.",
        show_default=default is not None,
        rich_help_panel=PANEL,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=declared, annotation=kind
    )

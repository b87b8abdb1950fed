"""The exit code and the words for each exception. The only place that decides them.

0   done
1   failure: it should have worked but did not
2   wrong use, or refused input

CommandError
├── WrongUse        exit code 2
└── CommandFailed   exit code 1
"""

import os
import sys
import traceback

import typer
from rich.console import Console

DONE = 0
FAILURE = 1
WRONG_USE = 2
TRACEBACK_VARIABLE = "EXPERTPOOL_TRACEBACK"


class CommandError(Exception):
    """A command ends early, with a message for the user."""


class WrongUse(CommandError):
    """The command was used wrongly, or its input is refused."""


class CommandFailed(CommandError):
    """The command was right but could not be carried out."""


def exit_code(error: Exception) -> int:
    """The exit code of a command that ended with `error`."""
    if isinstance(error, typer.TyperException):
        return error.exit_code
    if isinstance(error, CommandError):
        return WRONG_USE if isinstance(error, WrongUse) else FAILURE
    return WRONG_USE if isinstance(error, _refusals()) else FAILURE


def message(error: Exception) -> str:
    """One error in words, without a traceback."""
    if isinstance(error, typer.TyperException):
        return error.format_message().replace("Value error, ", "")  # pydantic's, under typer
    if isinstance(error, (CommandError, *_deliberate())):
        return str(error)
    if isinstance(error, OSError):
        return _system_error(error)
    return f"unexpected {type(error).__name__}: {error} (set {TRACEBACK_VARIABLE}=1 to see where)"


def report(error: Exception, console: Console) -> int:
    """Print what went wrong on `console`; return the exit code."""
    error = _original(error)
    words = message(error)
    if words:
        console.print("error: ", style="bold red", end="")
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    if os.environ.get(TRACEBACK_VARIABLE):
        console.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
    return exit_code(error)


def _original(error: Exception) -> Exception:
    """What a Ray task raised, without Ray's wrapper, whose text is a traceback."""
    cause = getattr(error, "cause", None)
    if type(error).__module__.startswith("ray.") and isinstance(cause, Exception):
        return cause
    return error


def _system_error(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename else what


def _refusals() -> tuple[type[Exception], ...]:
    from consolidation.errors import Refused
    from representation.architecture.errors import Unservable
    from serve_app.errors import ConfigError, DoesNotFit, UnknownModel, UnknownRelease, Unsupported

    of_releases = _release_errors("CanaryRefused", "NewerSchema", "NoBucket", "NotFound")
    return (
        ConfigError,
        DoesNotFit,
        Refused,
        UnknownModel,
        UnknownRelease,
        Unservable,
        Unsupported,
        *of_releases,
    )


def _deliberate() -> tuple[type[Exception], ...]:
    from consolidation.errors import ConsolidationError
    from representation.architecture.errors import Unservable
    from serve_app.errors import ServingError

    return (ConsolidationError, ServingError, Unservable, *_release_errors("ReleaseError"))


def _release_errors(*names: str) -> list[type[Exception]]:
    """Errors of the release format; none if it is not loaded, because then nothing raised them.

    It needs pydantic, and some commands run without pydantic.
    """
    module = sys.modules.get("consolidation.release.errors")
    return [getattr(module, name) for name in names] if module else []

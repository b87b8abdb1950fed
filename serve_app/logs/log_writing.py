"""Sets up where the lines of a process go, and of those that it starts. Called once in each."""

import logging
import os
import sys
from collections.abc import Sequence

from serve_app.logs.about import ACCESS, JOBS
from serve_app.logs.floods import Unflooded
from serve_app.logs.lines import LogFormat, formatter_of
from serve_app.logs.outputs import ToOutput, container_output

OURS = "serve_app"
"""The logger of all that is said; what libraries log is theirs."""
_FORMAT, _OUTPUT = "EXPERTPOOL_LOG_FORMAT", "EXPERTPOOL_LOG_OUTPUT"
"""In the environment, for processes that this one starts; the settings have the same names."""
_log = logging.getLogger(__name__)


def write_lines(
    process: str,
    level: str,
    form: LogFormat,
    output: str | None = None,
    others: Sequence[logging.Handler] = (),
) -> None:
    """To stderr, to a container's output or `output` if there is one, and to `others`.

    Lines of single requests go to stderr only if there is no output: Ray keeps stderr in a file,
    which nobody may ever clear.

    process: which one this is, `engine` or `ingress`.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    path = output or (container_output() if form == "json" else None)
    trouble = None
    if path is not None:
        try:
            handlers.append(ToOutput(path))
            handlers[0].addFilter(_is_of_no_request)
        except OSError as error:
            trouble = f"lines do not go to {path}: {error.strerror}"
    for handler in handlers:
        handler.setFormatter(formatter_of(form, process))
    log = logging.getLogger(OURS)
    log.setLevel(level.upper())
    log.addHandler(Unflooded([*handlers, *others]))
    log.propagate = False
    os.environ[_FORMAT] = form
    if output is not None:
        os.environ[_OUTPUT] = output
    if trouble is not None:
        _log.error("%s", trouble)


def write_lines_as_parent(process: str, level: str) -> None:
    """In a process that was started by one that has called `write_lines`."""
    form: LogFormat = "json" if os.environ.get(_FORMAT) == "json" else "text"
    write_lines(process, level, form, os.environ.get(_OUTPUT))


def _is_of_no_request(record: logging.LogRecord) -> bool:
    return record.name not in (ACCESS, JOBS)

"""Where log lines go beside a process's own stderr: a container's output. Never waits for it."""

import logging
import os

CONTAINER = "/proc/1/fd/1"
"""The output of a container's first process, which the kubelet keeps. Ray gives its workers another
one: a file in the container.
"""
_IN_KUBERNETES = "KUBERNETES_SERVICE_HOST"


def container_output() -> str | None:
    """Where this process's container has its output, on Kubernetes."""
    return CONTAINER if _IN_KUBERNETES in os.environ else None


class ToOutput(logging.Handler):
    """Writes lines to a pipe or a file, `path`. Where nobody reads, lines are dropped and counted.

    Raises OSError if it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o644)
        self.num_lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(self._file, f"{self.format(record)}\n".encode())
        except OSError:
            self.num_lost += 1

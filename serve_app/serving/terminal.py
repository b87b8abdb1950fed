"""What all processes of an endpoint have to say, a line each, in the process that has a terminal.

It listens on a Unix socket, whose path those below it find in their environment. Each of them keeps
its connection for as long as it lives, so its end is seen at once. Whole records, with where an
error came from, are in each process's own log.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from tempfile import TemporaryDirectory
from threading import Thread

from serve_app.logs.about import ACCESS, FACTS, JOBS
from serve_app.logs.lines import LogFormat
from serve_app.logs.log_writing import write_lines

_ADDRESS = "EXPERTPOOL_TERMINAL"
_LONGEST = 500
Say = Callable[[str], None]


def log_as(who: str, level: str, form: LogFormat, output: str | None = None) -> None:
    """In a process of an endpoint: what is logged goes to its stderr, which Ray keeps in a file,
    to the container's output on Kubernetes, or to `output`, and to the terminal if there is one.

    who: how lines at the terminal begin.
    """
    address = os.environ.get(_ADDRESS)
    terminal = [] if address is None else [_ToTerminal(address, who)]
    write_lines(who, level, form, output, terminal)


class _ToTerminal(logging.Handler):
    """Never waits: lines that nobody reads are dropped, as are those after the terminal's end.

    Lines of single requests are not for people who watch: the log has them.
    """

    def __init__(self, path: str, who: str) -> None:
        super().__init__()
        self._who = who
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(path)
        except OSError:
            return
        self._socket.setblocking(False)
        self._send(f"{who} (process {os.getpid()})")

    def emit(self, record: logging.LogRecord) -> None:
        if record.name in (ACCESS, JOBS):
            return
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        said = record.getMessage().strip().partition("\n")[0].rstrip(" :")
        request = getattr(record, FACTS, {}).get("request")
        whose = "" if request is None else f" (request {request})"
        self._send(f"{self._who}: {level}{said}{whose}")

    def _send(self, said: str) -> None:
        shown = "".join(each if each.isprintable() else "\ufffd" for each in said[:_LONGEST])
        try:
            self._socket.send(f"{shown}\n".encode(errors="replace"))
        except OSError:
            return


class Ears:
    """What hears them. `say` gets each line; it is called by several threads, one at a time each
    process.
    """

    def __init__(self, say: Say) -> None:
        self.say = say
        self._expects_ends = False

    def expect_ends(self) -> None:
        """Processes that end from now on are not worth a line."""
        self._expects_ends = True

    def ended(self, who: str) -> None:
        """A process has ended."""
        if not self._expects_ends:
            self.say(f"the {who} has ended; another one starts")


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, ears: Ears) -> None:
        super().__init__(path, _Handler)
        self.ears = ears


class _Handler(StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        who = self._line()
        while said := self._line():
            self.server.ears.say(said)
        if who:
            self.server.ears.ended(who)

    def _line(self) -> str:
        """Nothing, once the process has ended."""
        try:
            return self.rfile.readline().decode(errors="replace").strip()
        except OSError:
            return ""


@contextmanager
def heard(say: Say) -> Iterator[Ears]:
    """Processes that are started inside the block, and call `log_as`, are heard."""
    ears = Ears(say)
    with TemporaryDirectory(prefix="expertpool-") as directory:
        path = os.environ[_ADDRESS] = str(Path(directory, "terminal"))
        with _Server(path, ears) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield ears
            finally:
                del os.environ[_ADDRESS]
                server.shutdown()

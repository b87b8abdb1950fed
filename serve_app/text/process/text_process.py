"""Starts the text process and carries messages to it and from it. Keeps nothing alive."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, cast

from serve_app.text.process.frames import Frames, frame
from serve_app.text.process.text_messages import Answer, Turn
from serve_app.text.template_limits import TemplateLimits

Hear = Callable[[Answer], None]
_LIMITS = TemplateLimits()


class Process(Protocol):
    """A text process as its parent sees it. All on one event loop."""

    def send(self, turn: Turn) -> None:
        """Returns at once. What an ended process was sent is lost."""
        ...

    def kill(self) -> None: ...

    async def ended(self) -> str:
        """Waits for the end, and says how it came. Nothing is heard any more."""
        ...


StartProcess = Callable[[str, Hear], Awaitable[Process]]
"""From the directory of tokenizers, and what is called with each answer, to a running process."""


class TextProcess(asyncio.Protocol):
    """A child of this process. It ends when this one does, however that is: its socket closes."""

    def __init__(self, child: "subprocess.Popen[bytes]", hear: Hear) -> None:
        self._child = child
        self._hear = hear
        self._frames = Frames()
        self._to: asyncio.WriteTransport | None = None
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(
        cls, directory: str, hear: Hear, limits: TemplateLimits = _LIMITS
    ) -> "TextProcess":
        """Does not wait until it answers. Raises OSError if there can be no process."""
        ours, its = socket.socketpair()
        try:
            made = cls(_child(its.fileno(), directory, limits), hear)
        except OSError:
            ours.close()
            raise
        finally:
            its.close()
        await asyncio.get_running_loop().create_unix_connection(lambda: made, sock=ours)
        return made

    @property
    def id(self) -> int:
        """Of the process."""
        return self._child.pid

    def send(self, turn: Turn) -> None:
        if self._to is not None:
            self._to.write(frame(turn))

    def kill(self) -> None:
        self._child.kill()

    async def ended(self) -> str:
        return await asyncio.shield(self._ended)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, as are the next two."""
        self._to = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        for answer in self._frames.feed(data):
            self._hear(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._to = None
        self._child.kill()
        self._reaping = asyncio.get_running_loop().create_task(self._reap())

    async def _reap(self) -> None:
        code = await asyncio.to_thread(self._child.wait)
        self._ended.set_result(f"signal {-code}" if code < 0 else f"exit status {code}")


def _child(socket_number: int, directory: str, limits: TemplateLimits) -> "subprocess.Popen[bytes]":
    module = f"{__package__}.text_child"
    arguments = [str(socket_number), directory, str(limits.seconds), str(limits.memory)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        pass_fds=[socket_number],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **_environment()},
        start_new_session=True,  # Ctrl-C is for the parent
    )


def _environment() -> dict[str, str]:
    """Modules are found where this process finds them, which Ray does not tell in a variable."""
    return {
        "OPENBLAS_NUM_THREADS": "1",  # it forks, which a process with threads must not
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
        "TOKENIZERS_PARALLELISM": "false",  # the cores are for the engine
        "TRANSFORMERS_VERBOSITY": "error",  # it would miss torch
    }

"""Reads bodies into JSON objects without holding up the event loop. Checks no field."""

import asyncio
import json
import marshal
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import serve_app
from serve_app.api.requests import body_child
from serve_app.api.requests.body import json_object
from serve_app.api.requests.most_tokens import MostTokens
from serve_app.freeing import Freeing
from serve_app.protocol.errors import ProtocolError

_SHORT = 2**18
"""Bytes that are read at once, in some milliseconds, if they hold few values."""
_FEW = 2**14
"""Signs between values in a short body."""
_AT_ONCE = 2
"""A body takes up to ten times its memory, so others wait."""


def is_short(body: bytes | bytearray) -> bool:
    """Whether it is read, and its fields are checked, at once."""
    return len(body) <= _SHORT and sum(map(body.count, (b",", b"[", b"{"))) <= _FEW


class Bodies:
    """What is long is read by a process of its own, which ends then: a thread would keep the
    interpreter, and the memory would stay.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._freeing = Freeing()

    async def json_object(
        self, body: bytes | bytearray, most: Callable[[], Awaitable[MostTokens | None]]
    ) -> dict[str, Any]:
        """See `body.json_object`. most: what a long body may hold, if that is known.

        Raises ProtocolError also for a prompt that is longer.
        """
        if is_short(body):
            return json_object(bytes(body))
        self._freeing.soon()
        limit = await most()
        async with self._places:
            read = await asyncio.to_thread(_read, body, limit)
        found, error = marshal.loads(read)
        if error is not None:
            raise ProtocolError.of_item(error)
        return dict(found)


def _read(body: bytes | bytearray, most: MostTokens | None) -> bytes:
    """What `body_child` writes. Raises CalledProcessError."""
    root = Path(serve_app.__file__).parent.parent
    command = [sys.executable, "-S", "-P", "-m", body_child.__name__]
    if most is not None:
        command.append(json.dumps(most))
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        left = memoryview(body)
        while left:
            left = left[child.stdin.write(left) :]
        child.stdin.close()
        read = child.stdout.readall()  # type: ignore[attr-defined]  # unbuffered
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return bytes(read)

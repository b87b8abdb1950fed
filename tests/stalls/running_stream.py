"""A stream of one endpoint, and when its parts came. Judges nothing."""

import json
import socket
import threading
import time
from contextlib import suppress
from itertools import pairwise
from types import TracebackType
from typing import Self

_BODY = {"model": "a", "prompt": "the", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
_FIRST = 50
"""Parts that are awaited."""
_LONGEST_S = 60.0


class RunningStream:
    """An answer that has begun, and runs until the end of the block."""

    def __init__(self, port: int) -> None:
        """Raises: TimeoutError if none begins."""
        self._times: list[float] = []
        body = json.dumps(_BODY).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(head.encode() + body)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        until = time.monotonic() + _LONGEST_S
        while len(self._times) < _FIRST:
            if time.monotonic() > until or not self._thread.is_alive():
                raise TimeoutError(f"of a stream came {len(self._times)} parts")
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def longest_gap_s(self, since: float, until: float) -> float:
        """Between two parts, in that time in part."""
        times = [since, *(each for each in self._times if each > since), until]
        gaps = [after - before for before, after in pairwise(times) if before < until]
        return max(gaps)

    def _read(self) -> None:
        with suppress(ConnectionResetError):  # at its end
            while more := self._socket.recv(1 << 16):
                if b"data:" in more:
                    self._times.append(time.monotonic())

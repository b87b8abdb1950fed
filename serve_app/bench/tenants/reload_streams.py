"""Streams that ask the same questions of an endpoint again and again. Judges no answer."""

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import aiohttp

from serve_app.bench.arms.endpoint import body
from serve_app.bench.requests.workload import TimedJob

TIMEOUT_S = 60.0
"""A request that takes longer is lost."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer as it came.

    question: its number.   at_s: when each piece came, on the monotonic clock.   release: which one
    answered, None if nobody said.   error: why the answer is not whole.
    """

    question: int
    text: str
    at_s: tuple[float, ...]
    release: str | None
    error: str | None = None


class Streams:
    """A client for each question, in a thread. All of them ask at once, or each in turn.

    heard: the answers to those that ask at once, in the order in which they ended.
    """

    def __init__(self, url: str, questions: Sequence[TimedJob]) -> None:
        self.heard: list[Heard] = []
        self._url, self._questions = f"{url}/v1/completions", questions
        self._end = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="streams", daemon=True)
        self._thread.start()
        self._asking: Future[None] | None = None

    @property
    def number(self) -> int:
        """Of the questions."""
        return len(self._questions)

    def begin(self) -> None:
        """Every client asks until `end`."""
        self._asking = asyncio.run_coroutine_threadsafe(self._ask_all(), self._loop)

    def end(self) -> None:
        """Every client hears the end of its answer, and asks no more."""
        self._end.set()
        if self._asking is not None:
            self._asking.result()

    def in_turn(self) -> list[Heard]:
        """An answer to each question, alone."""
        return asyncio.run_coroutine_threadsafe(self._ask_in_turn(), self._loop).result()

    def close(self) -> None:
        self.end()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _ask_all(self) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._again(session, n) for n in range(len(self._questions))))

    async def _again(self, session: aiohttp.ClientSession, question: int) -> None:
        while not self._end.is_set():
            self.heard.append(await self._ask(session, question))

    async def _ask_in_turn(self) -> list[Heard]:
        async with aiohttp.ClientSession() as session:
            return [await self._ask(session, n) for n in range(len(self._questions))]

    async def _ask(self, session: aiohttp.ClientSession, question: int) -> Heard:
        lines: list[tuple[float, bytes]] = []
        error = None
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                session.post(self._url, json=body(self._questions[question])) as response,
            ):
                async for line in response.content:
                    lines.append((time.monotonic(), line))
                if response.status != 200:
                    error = f"{response.status}"
        except (TimeoutError, aiohttp.ClientError, OSError) as caught:
            error = f"{type(caught).__name__}: {caught}"
        return heard(question, lines, error)


def heard(question: int, lines: Sequence[tuple[float, bytes]], error: str | None) -> Heard:
    """An answer from the lines of its stream and when each came."""
    text, at_s, release, is_done = "", [], None, False
    for when, line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            is_done = True
            continue
        told = json.loads(data)
        if "error" in told:
            error = error or str(told["error"])
            continue
        release = told["system_fingerprint"]
        for choice in told["choices"]:
            text += choice["text"]
            at_s.append(when)
    if not is_done:
        error = error or "the stream ended before the answer did"
    return Heard(question, text, tuple(at_s), release, error)

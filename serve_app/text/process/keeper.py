"""Keeps one text process running: starts another when it ends, and ends it when it hangs."""

import asyncio
import logging
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable

from serve_app.text.process.text_messages import Answer, Turn
from serve_app.text.process.text_process import Process, StartProcess

_log = logging.getLogger(__name__)
MOST_DEATHS = 3
"""After so many within `DEATHS_S` there is something wrong that another process will not mend."""
DEATHS_S = 60.0
LOOK_S = 1.0


class Keeper:
    """All on one event loop.

    on_started: a new process is there, and knows nothing.   hears: called with its answers.
    hangs: whether it should have answered by now.   on_lost: called once with the reason if it is
    given up.
    """

    def __init__(
        self,
        start: StartProcess,
        *,
        on_started: Callable[[], None],
        hears: Callable[[Answer], None],
        hangs: Callable[[], bool],
        on_lost: Callable[[str], None],
    ) -> None:
        self._start = start
        self._on_started = on_started
        self._hears = hears
        self._hangs = hangs
        self._on_lost = on_lost
        self._process: Process | None = None
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self._task: asyncio.Task[None] | None = None
        self.directory = ""
        self.num_restarts = 0
        self.trouble: str | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def begin(self) -> None:
        """Returns before there is a process. Nothing happens if it has begun."""
        if self._task is not None:
            return
        self.directory = tempfile.mkdtemp(prefix="expertpool-text-")
        self._task = asyncio.get_running_loop().create_task(self._keep())

    def send(self, turn: Turn) -> None:
        """To the process that runs."""
        if self._process is not None:
            self._process.send(turn)

    async def aclose(self) -> None:
        """Ends the process. Waits for that, and removes its files."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        if self._process is not None:
            self._process.kill()
            await self._process.ended()
            self._process = None
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    async def _keep(self) -> None:
        while self.trouble is None:
            try:
                self._process = await self._start(self.directory, self._hears)
                self._on_started()
                reason = await self._end_of(self._process)
            except OSError as error:
                reason = f"it cannot be started: {error}"
            self._process = None
            self._died(reason)

    async def _end_of(self, process: Process) -> str:
        end = asyncio.ensure_future(process.ended())
        try:
            while not end.done():
                await asyncio.wait({end}, timeout=LOOK_S)
                if not end.done() and self._hangs():
                    _log.error("the text process does not answer; it is ended")
                    process.kill()
                    await asyncio.wait({end})
            return end.result()
        finally:
            end.cancel()

    def _died(self, reason: str) -> None:
        now = time.monotonic()
        self._deaths.append(now)
        if len(self._deaths) == MOST_DEATHS and now - self._deaths[0] < DEATHS_S:
            self.trouble = (
                f"the text process has ended {MOST_DEATHS} times within a minute: {reason}"
            )
            _log.error("%s; it is given up", self.trouble)
            self._on_lost(self.trouble)
        else:
            self.num_restarts += 1
            _log.warning("the text process has ended (%s); another takes over", reason)

"""An engine with a part of a core's time, like a container with a limit or a slice of a GPU."""

import time
from collections.abc import Callable
from typing import Any, cast

from serve_app.engine.engine import Engine
from serve_app.engine.request import Event


def rationed(engine: Engine, core_share: float) -> Engine:
    """The engine as it is, except that its steps take longer. core_share: of one core, up to 1."""
    return engine if core_share == 1 else cast(Engine, _Rationed(engine, core_share))


class _Rationed:
    """Returns the result of a step only when the process's share of the core would have allowed it.

    What it waits for others on the same core counts; time in which there is nothing to compute is
    not saved up for later, and is lent to nobody.
    """

    def __init__(
        self,
        engine: Engine,
        core_share: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        processor_s: Callable[[], float] = time.process_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._engine = engine
        self._core_share = core_share
        self._clock = clock
        self._processor_s = processor_s
        self._sleep = sleep

    def step(self) -> list[Event]:
        began, used = self._clock(), self._processor_s()
        events = self._engine.step()
        due = began + (self._processor_s() - used) / self._core_share
        self._sleep(max(0.0, due - self._clock()))
        return events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

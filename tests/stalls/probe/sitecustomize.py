"""Tells what keeps threads waiting, in each process of an endpoint that `tests.stalls` started.

Python imports it at its start, as its folder is on PYTHONPATH. It writes lines to the file that
STALLS_TO and the process's id name: when, `callback`, `garbage` or `wait`, milliseconds of
processor, and what. A callback is one of an event loop, and garbage a collection. A wait is how
late a thread wakes that slept, as another kept the interpreter: at most the processor time that
the process took meanwhile, and without the time for which the thread waited for a core. So none of
them grows because others keep the machine busy.
"""

import gc
import os
import threading
import time
from pathlib import Path

_LEAST_S = 0.005
_SLEEP_S = 0.005


def _delay_s() -> float:
    """For how long this thread has waited for a core, in all."""
    return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9


def _begin(place: str) -> None:
    lock = threading.Lock()

    def tell(kind: str, seconds: float, what: str) -> None:
        with lock, Path(place, str(os.getpid())).open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic()}\t{kind}\t{1000 * seconds:.1f}\t{what}\n")

    def watch() -> None:
        while True:
            begun, used, delay = time.monotonic(), time.process_time(), _delay_s()
            time.sleep(_SLEEP_S)
            late = time.monotonic() - begun - _SLEEP_S
            if late > _LEAST_S:
                late = min(late - (_delay_s() - delay), time.process_time() - used)
                if late > _LEAST_S:
                    tell("wait", late, "")

    import asyncio.events

    run = asyncio.events.Handle._run

    def timed(self: asyncio.events.Handle) -> None:
        begun = time.thread_time()
        run(self)
        spent = time.thread_time() - begun
        if spent > _LEAST_S:
            tell("callback", spent, repr(self)[:300].replace("\n", " "))

    begun_s = 0.0

    def collects(phase: str, info: dict[str, int]) -> None:
        nonlocal begun_s
        if phase == "start":
            begun_s = time.thread_time()
        elif time.thread_time() - begun_s > _LEAST_S:
            tell("garbage", time.thread_time() - begun_s, f"of generation {info['generation']}")

    gc.callbacks.append(collects)
    asyncio.events.Handle._run = timed  # type: ignore[method-assign]
    threading.Thread(target=watch, daemon=True).start()


if "STALLS_TO" in os.environ:
    _begin(os.environ["STALLS_TO"])

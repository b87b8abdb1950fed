"""An engine per model in one process, stepped in turn: the arm `separate`."""

import contextlib
import queue
import threading
import time
from dataclasses import replace

from serve_app.bench.arms.arm import Ground, request_of
from serve_app.bench.arms.pooled import note_event, open_engine
from serve_app.bench.arms.unmerged import Unmerged
from serve_app.bench.requests.open_loop import Notes
from serve_app.bench.requests.workload import TimedJob
from serve_app.engine.engine import Engine
from serve_app.engine.loop import ends
from serve_app.engine.source import ReleaseSource
from serve_app.errors import EngineError

IDLE_S = 0.5
LOADING_S = 0.001
"""How long a thread sleeps if no engine can compute but one is loading."""


class Separate:
    """An engine for each model, and one thread that takes turns stepping those with work."""

    def __init__(self, ground: Ground, source: ReleaseSource) -> None:
        """Each engine holds keys and values for its share of the tokens.

        Raises: the same as opening an engine, and LoadFailed.
        """
        divided = ground.divided(len(ground.models))
        each = replace(divided, engine=replace(divided.engine, device_memory=None))
        self._wake = threading.Event()
        self._sent: queue.SimpleQueue[tuple[float, int, TimedJob, Notes]] = queue.SimpleQueue()
        self._open_jobs: dict[str, tuple[int, Notes, float]] = {}
        self._closing = False
        sources = {name: Unmerged(source, [name]) for name in ground.models}
        self._engines = {
            name: loaded_engine(replace(each, models=(name,)), own, self._wake)
            for name, own in sources.items()
        }
        self._releases = {name: own.id for name, own in sources.items()}
        self._thread = threading.Thread(target=self._run, name="separate", daemon=True)
        self._thread.start()

    @property
    def device_bytes(self) -> int:
        return sum(engine.stats().allocated_bytes for engine in self._engines.values())

    @property
    def facts(self) -> dict[str, float]:
        return {}

    def submit(self, index: int, job: TimedJob, notes: Notes) -> None:
        self._sent.put((time.monotonic(), index, job, notes))
        self._wake.set()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join()
        for engine in self._engines.values():
            engine.close()
        for index, notes, _ in self._open_jobs.values():
            notes.ended(index, "the arm was closed")

    def _run(self) -> None:
        try:
            while not self._closing:
                self._wake.clear()
                self._take_jobs()
                stepped = [engine for engine in self._engines.values() if self._step(engine)]
                if not stepped:
                    has_work = any(engine.has_work for engine in self._engines.values())
                    self._wake.wait(LOADING_S if has_work else IDLE_S)
        except BaseException as error:
            for index, notes, _ in self._open_jobs.values():
                notes.ended(index, f"the thread died: {error}")
            raise

    def _take_jobs(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                since, index, job, notes = self._sent.get_nowait()
                request = request_of(index, job, self._releases[job.model])
                self._open_jobs[request.id] = index, notes, time.monotonic() - since
                try:
                    self._engines[job.model].submit(request)
                except EngineError as error:
                    del self._open_jobs[request.id]
                    notes.ended(index, str(error))

    def _step(self, engine: Engine) -> bool:
        """One step of one model, if it has work. -> whether it computed anything"""
        if not engine.has_work:
            return False
        for event in engine.step():
            index, notes, waited_s = self._open_jobs[event.request]
            note_event(index, event, notes, waited_s)
            if ends(event):
                del self._open_jobs[event.request]
        return engine.is_stepping


def loaded_engine(ground: Ground, source: ReleaseSource, wake: threading.Event) -> Engine:
    """An engine with a release loaded, stepped by this thread until it is."""
    engine = open_engine(ground, source, wake.set)
    outcomes: list[EngineError | None] = []
    engine.stage(source, outcomes.append)
    while not outcomes:
        engine.step()
        wake.wait(LOADING_S)
    if outcomes[0] is not None:
        engine.close()
        raise outcomes[0]
    return engine

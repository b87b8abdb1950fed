"""One engine for all models, however their experts are stored: `pool` and others."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from serve_app.bench.arms.arm import Ground, request_of
from serve_app.bench.arms.rationed import rationed
from serve_app.bench.requests.open_loop import Notes
from serve_app.bench.requests.workload import TimedJob
from serve_app.engine.engine import Engine
from serve_app.engine.loop import EngineLoop
from serve_app.engine.request import Event, Failed, Token
from serve_app.engine.source import ReleaseSource


class Pooled:
    """An engine in a thread of this process, with a release loaded."""

    def __init__(self, ground: Ground, source: ReleaseSource, core_share: float = 1.0) -> None:
        """source: the release as the engine is to hold it; it has the ground's models.

        core_share: of a core, if the engine has less than one.

        Raises: the same as opening an engine, and LoadFailed.
        """
        self._release = source.id
        self._loop = EngineLoop(
            lambda wake: rationed(open_engine(ground, source, wake), core_share)
        )
        try:
            self._loop.stage(source).result()
        except BaseException:
            self._loop.close()
            raise

    @property
    def device_bytes(self) -> int:
        return self._loop.stats().allocated_bytes

    @property
    def facts(self) -> dict[str, float]:
        return {}

    def submit(self, index: int, job: TimedJob, notes: Notes) -> None:
        request = request_of(index, job, self._release)
        sent = self._loop.submit_all([request], lambda event: note_event(index, event, notes))

        def check(done: "Future[None]") -> None:
            if (error := done.exception()) is not None:
                notes.ended(index, str(error))

        sent.add_done_callback(check)

    def close(self) -> None:
        self._loop.close()


def open_engine(ground: Ground, source: ReleaseSource, wake: Callable[[], None]) -> Engine:
    """An engine for a source on a ground, nothing loaded yet.

    Random prompts have nothing in common, so there is no prefix cache.
    """
    config = replace(ground.engine, prefix_cache=False)
    return Engine.open(source, config, on_loaded=wake)


def note_event(index: int, event: Event, notes: Notes, waited_s: float = 0.0) -> None:
    """Note what an engine reports about a job. waited_s: before the engine had it."""
    match event:
        case Token():
            if event.queued_s is not None:
                notes.queued(index, waited_s + event.queued_s)
            notes.progressed(index, event.token)
            if event.finish is not None:
                notes.ended(index)
        case Failed():
            notes.ended(index, str(event.error))

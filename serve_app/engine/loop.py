"""The thread that steps an engine, and a thread-safe front to it. Knows no Ray and no HTTP."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from serve_app.engine.engine import Engine
from serve_app.engine.request import Event, Failed, Request, Token
from serve_app.engine.residents import Residence
from serve_app.engine.source import ReleaseSource
from serve_app.engine.stats import Stats
from serve_app.errors import EngineError, EngineStopped
from serve_app.scheduling.sequence import ModelKey

logger = logging.getLogger(__name__)
OnEvent = Callable[[Event], None]
T = TypeVar("T")

IDLE_S = 0.5
"""How often an idle loop turns to show its heartbeat; the first time, it checks counts."""
STATS_S = 0.1
"""How old the numbers of a busy loop may get."""


class EngineLoop:
    """Owns the thread that steps an engine. Every method may be called from any thread.

    Calls run between steps, in order. The loop's thread calls `on_event`.
    """

    def __init__(
        self,
        open_engine: Callable[[Callable[[], None]], Engine],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """open_engine: makes the engine in this thread; its argument wakes the loop.

        Raises: whatever `open_engine` raises.
        """
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._listeners: dict[str, OnEvent] = {}
        self._outcomes: set[Future[None]] = set()
        self._clock = clock
        self._closing = False
        self._died: BaseException | None = None
        self._engine = open_engine(self._wake.set)
        self._stats = self._engine.stats()
        self._thread = threading.Thread(target=self._run, name="expertpool-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, on_event: OnEvent) -> None:
        """Queue a request. Raises: UnknownRelease, UnknownModel, TooLong, DuplicateRequest."""
        self.submit_all([request], on_event).result()

    def submit_all(self, requests: Sequence[Request], on_event: OnEvent) -> "Future[None]":
        """Queue all of several requests or none. The future fails like `submit`. Does not wait."""

        def call() -> None:
            queued: list[str] = []
            try:
                for request in requests:
                    self._engine.submit(request)
                    self._listeners[request.id] = on_event
                    queued.append(request.id)
            except Exception:
                for request_id in queued:
                    self._listeners.pop(request_id, None)
                    self._engine.abort(request_id)
                raise

        return self._call(call)

    def abort(self, request_id: str) -> None:
        """End a request, if it exists; none of its events follow."""

        def call() -> None:
            self._listeners.pop(request_id, None)
            self._engine.abort(request_id)

        self._call(call)

    def fits_beside(self, source: ReleaseSource) -> bool:
        """Whether there is room for a release next to what is loaded."""
        return self._call(lambda: self._engine.fits_beside(source)).result()

    def require_room_alone(self, source: ReleaseSource) -> None:
        """Raises: DoesNotFit for a release that would not fit even if nothing else were loaded."""
        self._call(lambda: self._engine.require_room_alone(source)).result()

    def stage(self, source: ReleaseSource, *, may_lack: bool = False) -> "Future[None]":
        """Load a release while requests run. Once this is done, requests may name it.

        may_lack: as in `Engine.stage`.
        """
        done = self._outcome()

        def on_done(error: EngineError | None) -> None:
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        stage = partial(self._engine.stage, source, on_done, may_lack=may_lack)
        self._chain(self._call(stage), done)
        return done

    def retire(self, release: str) -> "Future[None]":
        """Take no new requests for a release. Done when its last sequence has ended."""
        done = self._outcome()

        def call() -> None:
            self._engine.retire(release, lambda: done.set_result(None))

        self._chain(self._call(call), done)
        return done

    def load(self, model: ModelKey) -> "Future[None]":
        """See `Residents.load`."""
        return self._call(lambda: self._engine.residents.load(model))

    def unload(self, model: ModelKey) -> "Future[None]":
        """See `Residents.unload`."""
        return self._call(lambda: self._engine.residents.unload(model))

    def pin(self, models: Collection[ModelKey]) -> "Future[None]":
        """See `Residents.pin`."""
        return self._call(lambda: self._engine.residents.pin(models))

    def residence(self) -> "Future[Residence]":
        """See `Residents.look`."""
        return self._call(lambda: self._engine.residents.look())

    def context_length(self, release: str, model: str) -> int:
        """The most tokens a sequence may have. Raises: UnknownRelease, UnknownModel."""
        return self._call(lambda: self._engine.context_length(release, model)).result()

    def longest_prompt(self, release: str, model: str) -> int:
        """The most tokens a prompt may have. Raises: UnknownRelease, UnknownModel."""
        return self._call(lambda: self._engine.longest_prompt(release, model)).result()

    @property
    def dtype(self) -> str:
        """What it computes in: "float32" or "bfloat16"."""
        return self._engine.memory.dtype

    def stats(self) -> Stats:
        """As of the loop's last turn."""
        return self._stats

    def close(self) -> None:
        """Stop after the running step. Open requests fail with EngineStopped."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _call(self, function: Callable[[], T]) -> "Future[T]":
        """Let the loop's thread call a function between steps."""
        future: Future[T] = Future()

        def call() -> None:
            if self._closing or self._died is not None:
                future.set_exception(self._stopped())
                return
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)

        self._calls.put(call)
        self._wake.set()
        if self._ended.is_set():
            self._answer_calls()
        return future

    def _answer_calls(self) -> None:
        """Run the waiting calls: in the loop's thread, or in any thread once it has ended."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()()

    def _outcome(self) -> "Future[None]":
        """A future that a later step completes, or that fails with the loop."""
        done: Future[None] = Future()
        self._outcomes.add(done)
        done.add_done_callback(self._outcomes.discard)
        return done

    def _stopped(self) -> EngineStopped:
        return EngineStopped(f"the engine has stopped: {self._died or 'closed'}")

    @staticmethod
    def _chain(call: "Future[None]", done: "Future[None]") -> None:
        """Pass a call's failure on to the future for its result."""

        def check(finished: "Future[None]") -> None:
            error = finished.exception()
            if error is not None:
                done.set_exception(error)

        call.add_done_callback(check)

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:
            self._died = error
            logger.exception("the engine loop died")
            raise
        finally:
            self._closing = True
            self._engine.close()
            self._ended.set()
            self._answer_calls()
            for request_id in list(self._listeners):
                self._deliver(Failed(request_id, self._stopped()))
            for outcome in list(self._outcomes):
                outcome.set_exception(self._stopped())

    def _turn(self) -> None:
        self._wake.clear()
        self._answer_calls()
        events = self._step()
        if not self._engine.is_stepping or self._clock() - self._stats.heartbeat >= STATS_S:
            self._stats = self._engine.stats()
        began = self._clock()
        for event in events:
            self._deliver(event)
        self._engine.counters.messages_seconds += self._clock() - began
        if not self._engine.is_stepping and not self._wake.wait(IDLE_S):
            self._engine.check()

    def _step(self) -> list[Event]:
        """A step. If it breaks, all requests end, and the loop goes on if the engine is sound.

        Raises: AssertionError if it is not, and what the step breaks with if there is no request.
        """
        try:
            return self._engine.step()
        except Exception as error:  # noqa: BLE001  whatever it is, others may be served
            events = self._engine.give_up(error)
            return events + self._engine.step()

    def _deliver(self, event: Event) -> None:
        listener = self._listeners.get(event.request)
        if listener is None:
            return
        if ends(event):
            del self._listeners[event.request]
        try:
            listener(event)
        except Exception:
            logger.exception(
                "a listener of request %r broke; the request is dropped", event.request
            )
            self._listeners.pop(event.request, None)
            self._engine.abort(event.request)


def ends(event: Event) -> bool:
    """Whether this is the last event of a request."""
    return event.finish is not None if isinstance(event, Token) else isinstance(event, Failed)

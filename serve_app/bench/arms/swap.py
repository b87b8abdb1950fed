"""One engine that holds one whole model; the others wait in host memory: the arm `swap`.

This is what sleep and wake or llama-swap do, with requests grouped by model: the loaded model
serves what waits for it before another takes its place.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from serve_app.bench.arms.arm import Ground, request_of
from serve_app.bench.arms.pooled import note_event, open_engine
from serve_app.bench.arms.unmerged import Unmerged
from serve_app.bench.requests.open_loop import Notes
from serve_app.bench.requests.workload import TimedJob
from serve_app.engine.engine import Engine
from serve_app.engine.loop import EngineLoop, ends
from serve_app.engine.request import Event, Failed
from serve_app.engine.source import ReleaseSource
from serve_app.errors import Unsupported

TURN_S = 1.0
"""How long the loaded model goes on taking requests while other models' requests wait."""
WARM = TimedJob(0.0, "", (3,), 1, 0)
"""A job that loads a model's backbone onto the device."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    number: int
    since: float
    index: int
    job: TimedJob
    notes: Notes


class Swap:
    """An engine for one model, and a thread that decides which model's weights it has."""

    def __init__(self, ground: Ground, source: ReleaseSource) -> None:
        """Raises: Unsupported if models differ in more than weights; the same as an engine."""
        require_one_config(source, ground.models)
        self._ground = ground
        self._waiting: dict[str, deque[_Waiting]] = {name: deque() for name in ground.models}
        self._num_sent = 0
        self._num_running = 0
        self._closing = False
        self._changed = threading.Condition()
        self._swaps_s: list[float] = []
        self._host: dict[str, list[torch.Tensor]] = {}
        for name in ground.models:
            self._host[name] = self._copied(source, name)
        self._loop, engine, self._release = self._opened(source, ground.models[0])
        self._loaded = ground.models[0]
        self._device = weights(engine)
        self._thread = threading.Thread(target=self._run, name="swap", daemon=True)
        self._thread.start()

    def _copied(self, source: ReleaseSource, name: str) -> list[torch.Tensor]:
        """A model's weights on the host, as an engine arranges them. Opens and closes an engine."""
        loop, engine, _ = self._opened(source, name)
        try:
            return host_copy(engine)
        finally:
            loop.close()

    def _opened(self, source: ReleaseSource, name: str) -> tuple[EngineLoop, Engine, str]:
        """An engine with one model, its backbone on the device too; and its release."""
        own = Unmerged(source, [name])
        ground = replace(self._ground, models=(name,))
        engines: list[Engine] = []

        def open_one(wake: Callable[[], None]) -> Engine:
            engines.append(open_engine(ground, own, wake))
            return engines[0]

        loop = EngineLoop(open_one)
        loop.stage(own).result()
        warm: Future[None] = Future()
        request = request_of(-1, replace(WARM, model=name), own.id)

        def on_event(event: Event) -> None:
            if isinstance(event, Failed):
                warm.set_exception(event.error)
            elif ends(event):
                warm.set_result(None)

        loop.submit(request, on_event)
        warm.result()
        return loop, engines[0], own.id

    @property
    def device_bytes(self) -> int:
        return self._loop.stats().allocated_bytes

    @property
    def facts(self) -> dict[str, float]:
        return {
            "swaps": len(self._swaps_s),
            "swap_s": sum(self._swaps_s) / max(1, len(self._swaps_s)),
            "host_bytes": sum(t.nbytes for own in self._host.values() for t in own),
        }

    def submit(self, index: int, job: TimedJob, notes: Notes) -> None:
        with self._changed:
            self._num_sent += 1
            self._waiting[job.model].append(
                _Waiting(self._num_sent, time.monotonic(), index, job, notes)
            )
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._loop.close()
        self._thread.join()
        for waiting in self._waiting.values():
            for one in waiting:
                one.notes.ended(one.index, "the arm was closed")

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or any(self._waiting.values()))
                if self._closing:
                    return
                # The model whose oldest request has waited longest.
                heads = [waiting[0] for waiting in self._waiting.values() if waiting]
                model = min(heads, key=lambda one: one.number).job.model
            if model != self._loaded:
                self._swap(model)
            self._serve(model)

    def _swap(self, model: str) -> None:
        """Copy a model's weights into the engine's tensors while nothing runs."""
        began = time.monotonic()
        with torch.inference_mode():
            for room, tensor in zip(self._device, self._host[model], strict=True):
                room.copy_(tensor, non_blocking=True)
        if self._device[0].is_cuda:
            torch.cuda.synchronize(self._device[0].device)
        self._loaded = model
        self._swaps_s.append(time.monotonic() - began)

    def _serve(self, model: str) -> None:
        """A turn: until the model has no requests left, or others wait and its time is up."""
        until = time.monotonic() + TURN_S
        while not self._closing:
            with self._changed:
                others = any(own for name, own in self._waiting.items() if name != model)
                left = until - time.monotonic() if others else None
                taken = [] if left is not None and left <= 0 else self._take(model)
                if not taken:
                    if not self._num_running:
                        return
                    self._changed.wait(left if left is not None and left > 0 else None)
            for one in taken:
                self._send(one)

    def _take(self, model: str) -> list[_Waiting]:
        """Send requests that the engine has room for; the rest wait, so that others get a turn."""
        own = self._waiting[model]
        count = min(len(own), self._ground.engine.max_sequences - self._num_running)
        self._num_running += count
        return [own.popleft() for _ in range(count)]

    def _send(self, one: _Waiting) -> None:
        asked = replace(one.job, model=self._ground.models[0])
        waited_s = time.monotonic() - one.since

        def on_event(event: Event) -> None:
            note_event(one.index, event, one.notes, waited_s)
            if ends(event):
                self._leave()

        def check(sent: "Future[None]") -> None:
            if (error := sent.exception()) is not None:
                one.notes.ended(one.index, str(error))
                self._leave()

        request = request_of(one.index, asked, self._release)
        self._loop.submit_all([request], on_event).add_done_callback(check)

    def _leave(self) -> None:
        with self._changed:
            self._num_running -= 1
            self._changed.notify()


def require_one_config(source: ReleaseSource, models: Sequence[str]) -> None:
    """Raises: Unsupported if two models compute differently from the same weights."""
    first = source.models[models[0]].config
    for name in models[1:]:
        config = source.models[name].config
        for field in sorted({*first, *config} - NAMES_ONLY):
            if first.get(field) != config.get(field):
                raise Unsupported(
                    f"swap: models {models[0]!r} and {name!r} differ in {field}: "
                    f"{first.get(field)!r} and {config.get(field)!r}"
                )


NAMES_ONLY = {
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache"),
}
"""The config without fields that a step does not depend on."""


def weights(engine: Engine) -> list[torch.Tensor]:
    """Every tensor of an engine that holds weights, always in the same order."""
    packed = engine.packed
    stacks = [packed.stacks[name] for name in packed.stacks.names()]
    shelves = [shelf for layer in packed.pool.values() for shelf in layer.shelves.values()]
    return stacks + [tensor for shelf in shelves for tensor in shelf.tensors.values()]


def host_copy(engine: Engine) -> list[torch.Tensor]:
    """An engine's weights in host memory; pinned where the device is another."""
    found = [tensor.detach().to("cpu", copy=True) for tensor in weights(engine)]
    on_device = weights(engine)[0].is_cuda
    return [tensor.pin_memory() for tensor in found] if on_device else found

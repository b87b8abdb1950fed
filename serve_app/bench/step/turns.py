"""Times the turns of a running engine loop in which sequences decode. Knows no Ray and no HTTP.

A turn is a step and everything that the loop does with it: planning, sampling, committing, handing
over tokens. The engine counts its stages with the clock given here. `time.thread_time` gives the
processor time of the loop's thread, in which everything but the forward pass runs on a CPU. (That
of the process would have in it how long helper threads spin after the forward pass.)
"""

import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from serve_app.bench.step.session import WARM_STEPS, decode_tokens, shortest_vocabulary
from serve_app.engine.counters import Counters
from serve_app.engine.engine import Engine
from serve_app.engine.loop import EngineLoop
from serve_app.engine.request import Event, Failed, Request, Sampling, Token
from serve_app.engine.source import ReleaseSource
from serve_app.errors import EngineError

STAGES = ("planning", "indices", "sampling", "committing", "messages")
"""What a turn does outside the forward pass; `Counters` says what each is."""
Clock = Callable[[], float]
OpenEngine = Callable[[Callable[[], None], Clock], Engine]
"""Makes an engine, of what wakes its loop and of its clock."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds of one turn, from a token of one step to the same sequence's token of the next.

    waiting: for the device.   stages: of each of STAGES; what is in between them is in none.
    """

    whole: float
    forward: float
    waiting: float
    stages: Mapping[str, float]

    @property
    def outside(self) -> float:
        """Everything but the forward pass and waiting for the device."""
        return self.whole - self.forward - self.waiting


def medians(turns: Sequence[Turn]) -> dict[str, float]:
    """`turn_s`, `forward_s`, `outside_s`, and one for each stage: the medians over the turns."""
    found = {
        "turn": [turn.whole for turn in turns],
        "forward": [turn.forward for turn in turns],
        **{stage: [turn.stages[stage] for turn in turns] for stage in STAGES},
        "outside": [turn.outside for turn in turns],
    }
    return {f"{name}_s": statistics.median(values) for name, values in found.items()}


class DecodingLoop:
    """An engine loop with one release, and sequences of random prompts in it."""

    def __init__(
        self, open_engine: OpenEngine, source: ReleaseSource, *, step_tokens: int, clock: Clock
    ) -> None:
        """step_tokens: most that the engine computes in a step.   Raises: EngineError."""
        self._source = source
        self._step_tokens = step_tokens
        self._clock = clock
        self._random = torch.Generator().manual_seed(0)
        engines: list[Engine] = []

        def opened(wake: Callable[[], None]) -> Engine:
            engines.append(open_engine(wake, clock))
            return engines[0]

        self._loop = EngineLoop(opened, clock=clock)
        self._counters = engines[0].counters
        self._loop.stage(source).result()

    def turns(
        self, models: Sequence[str], context: int, num_turns: int, sampling: Sampling
    ) -> list[Turn]:
        """Turns in which a sequence for each of `models` gets one more token, after `context`.

        Raises: EngineError if a request fails.
        """
        requests = self._requests(models, context, num_turns, sampling)
        names = [request.id for request in requests]
        watch = _Watch(names, num_turns, self._counters, self._clock)
        self._loop.submit_all(requests, watch).result()
        found = watch.result()
        for name in names:
            self._loop.abort(name)
        return found

    def close(self) -> None:
        self._loop.close()

    def _requests(
        self, models: Sequence[str], context: int, num_turns: int, sampling: Sampling
    ) -> list[Request]:
        vocabulary = shortest_vocabulary(self._source)
        most = decode_tokens(len(models), context, num_turns, self._step_tokens)
        prompts = torch.randint(vocabulary, (len(models), context), generator=self._random)
        return [
            Request(f"{model} {number}", self._source.id, model, tuple(prompt), most, sampling)
            for number, (model, prompt) in enumerate(zip(models, prompts.tolist(), strict=True))
        ]


@contextmanager
def decoding_loop(
    open_engine: OpenEngine, source: ReleaseSource, *, step_tokens: int, clock: Clock
) -> Iterator[DecodingLoop]:
    """A loop that is closed at the end."""
    loop = DecodingLoop(open_engine, source, step_tokens=step_tokens, clock=clock)
    try:
        yield loop
    finally:
        loop.close()


class _Watch:
    """Listens to all requests. Once each has a token, looks at the clock at every token of one."""

    def __init__(
        self, names: Sequence[str], num_turns: int, counters: Counters, clock: Clock
    ) -> None:
        self._looked_at = names[0]
        self._silent = set(names)
        self._num_looks = WARM_STEPS + num_turns + 1
        self._counters = counters
        self._clock = clock
        self._looks: list[tuple[float, Counters]] = []
        self._error: EngineError | None = None
        self._ended = threading.Event()

    def __call__(self, event: Event) -> None:
        if self._ended.is_set():
            return
        if isinstance(event, Failed):
            self._end(event.error)
        elif isinstance(event, Token) and event.finish is not None:
            self._end(EngineError(f"request {event.request!r} ended before all was measured"))
        elif self._silent:
            self._silent.discard(event.request)
        elif event.request == self._looked_at:
            self._looks.append((self._clock(), replace(self._counters)))
            if len(self._looks) == self._num_looks:
                self._end(None)

    def _end(self, error: EngineError | None) -> None:
        self._error = error
        self._ended.set()

    def result(self) -> list[Turn]:
        """Waits for it."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        looks = self._looks[WARM_STEPS:]
        return [_turn(*pair) for pair in pairwise(looks)]


def _turn(before: tuple[float, Counters], after: tuple[float, Counters]) -> Turn:
    def spent(stage: str) -> float:
        name = f"{stage}_seconds"
        return float(getattr(after[1], name) - getattr(before[1], name))

    stages = {stage: spent(stage) for stage in STAGES}
    return Turn(after[0] - before[0], spent("forward"), spent("waiting"), stages)

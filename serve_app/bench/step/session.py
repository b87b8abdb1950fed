"""Runs an engine through steps of known content and times them. No Ray, no HTTP."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from representation.architecture.config import config_of, vocabulary_size
from serve_app.bench.step.floor import Span
from serve_app.bench.step.touched import Routing, RoutingWatch
from serve_app.engine.engine import Engine
from serve_app.engine.request import Failed, Request, Sampling, Token
from serve_app.engine.source import ReleaseSource
from serve_app.errors import EngineError

WARM_STEPS = 4
"""How many steps are skipped before any is timed."""
GREEDY = Sampling(temperature=0)
IDLE_S = 0.0005
"""How long to sleep if an engine has nothing to compute and waits for other threads."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Timed steps, all with the same content except for growing lengths.

    seconds: of each.   spans: of the sequences in the middle one.   routing: of one like them.
    """

    seconds: Sequence[float]
    spans: Sequence[Span]
    routing: Routing


@contextmanager
def running(engine: Engine, source: ReleaseSource) -> Iterator[Engine]:
    """The engine with a release staged; closed at the end.

    Raises: EngineError if the release could not be loaded.
    """
    outcomes: list[EngineError | None] = []
    try:
        engine.stage(source, outcomes.append)
        while not outcomes:
            engine.step()
            time.sleep(IDLE_S)
        if outcomes[0] is not None:
            raise outcomes[0]
        yield engine
    finally:
        engine.close()


def decode_tokens(num_sequences: int, context: int, num_steps: int, step_tokens: int) -> int:
    """Tokens that each sequence of a decode measurement must be able to get.

    These are the timed tokens, those it gets while prompts of others are still computed, and those
    that warm up, are watched, or are planned ahead.
    """
    prompts, computed = 0, 0
    while computed < num_sequences * context:
        begun = computed // context  # these get a token in the same step
        computed += max(1, step_tokens - begun)
        prompts += 1
    return num_steps + prompts + WARM_STEPS + 4


def shortest_vocabulary(source: ReleaseSource) -> int:
    """Token ids that every model of a release has."""
    return min(vocabulary_size(config_of(model.config)) for model in source.models.values())


class Session:
    """Sequences of random prompts in an engine that has one release."""

    def __init__(
        self,
        engine: Engine,
        source: ReleaseSource,
        *,
        step_tokens: int,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """step_tokens: most that the engine computes in a step."""
        self._engine = engine
        self._release = source.id
        self._vocabulary = shortest_vocabulary(source)
        self._step_tokens = step_tokens
        self._clock = clock
        self._random = torch.Generator().manual_seed(seed)
        self._number = 0
        self._lengths: dict[str, int] = {}

    def submit(self, models: Sequence[str], prompt: int, max_tokens: int) -> None:
        """One sequence for each entry of `models`, with a prompt of `prompt` tokens."""
        for model in models:
            ids = torch.randint(self._vocabulary, (prompt,), generator=self._random).tolist()
            self._number += 1
            name = f"{model} {self._number}"
            request = Request(name, self._release, model, tuple(ids), max_tokens, GREEDY)
            self._engine.submit(request)
            self._lengths[name] = prompt

    def step(self) -> tuple[float, int]:
        """-> seconds of one step, and how many tokens it gave. Raises the error of a request."""
        began = self._clock()
        events = self._engine.step()
        seconds = self._clock() - began
        tokens = 0
        for event in events:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Token):
                tokens += 1
                self._lengths[event.request] += 1
                if event.finish is not None:
                    del self._lengths[event.request]
        if not events and not self._engine.is_stepping:
            time.sleep(IDLE_S)
        return seconds, tokens

    @property
    def num_open(self) -> int:
        """Sequences that have not ended."""
        return len(self._lengths)

    def warm(self, models: Sequence[str]) -> None:
        """Answer a little for each model, so that its backbone is loaded."""
        self.submit(models, 1, 2)
        while self.num_open:
            self.step()

    def until_decoding(self) -> None:
        """Step until every sequence gets a token in one step."""
        while self.step()[1] < self.num_open:
            pass

    def end(self) -> None:
        """Give all sequences up."""
        for name in list(self._lengths):
            self._engine.abort(name)
        self._lengths.clear()
        while self._engine.has_work:
            self._engine.step()

    def watched(self) -> Routing:
        """Routing of one step."""
        watch = RoutingWatch()
        with self._engine.packed.watching(watch):
            self.step()
        return watch.routing()

    def begin(self, models: Sequence[str], context: int, num_steps: int) -> None:
        """Let a sequence of each of `models` decode `num_steps` steps, after `context` tokens."""
        most = decode_tokens(len(models), context, num_steps, self._step_tokens)
        self.submit(models, context, most)
        self.until_decoding()

    def decode(self, models: Sequence[str], context: int, num_steps: int) -> Steps:
        """Decode steps of one sequence for each entry of `models`, after `context` tokens."""
        self.begin(models, context, num_steps)
        seconds: list[float] = []
        middle: Mapping[str, int] = {}
        for number in range(-WARM_STEPS, num_steps):
            taken, _ = self.step()
            if number >= 0:
                seconds.append(taken)
            if number == num_steps // 2:
                middle = dict(self._lengths)
        routing = self.watched()
        self.end()
        return Steps(seconds, [Span(length - 1, 1) for length in middle.values()], routing)

    def prefill(self, models: Sequence[str], context: int, num_steps: int) -> Steps:
        """Steps that compute the whole prompts of one sequence for each entry of `models`."""
        seconds = []
        watch = RoutingWatch()
        with self._engine.packed.watching(watch):
            self._whole_prompts(models, context)
        for _ in range(num_steps):
            seconds.append(self._whole_prompts(models, context))
        return Steps(seconds, [Span(0, context)] * len(models), watch.routing())

    def _whole_prompts(self, models: Sequence[str], context: int) -> float:
        """-> seconds until each of these sequences has its first token"""
        self.submit(models, context, 1)
        seconds = 0.0
        while self.num_open:
            seconds += self.step()[0]
        return seconds

"""Runs engines for tests: requests in, tokens out, and what each model says by itself."""

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.engine.request import (
    Event,
    Failed,
    Logprob,
    PromptLogprobs,
    Request,
    Sampling,
    Token,
)
from serve_app.engine.source import ReleaseSource
from serve_app.errors import EngineError

GREEDY = Sampling(temperature=0, logprobs=5)
ON_CPU = EngineConfig(device="cpu")
SMALL = replace(ON_CPU, step_tokens=13, max_sequences=8, max_model_wait_s=0.01)


@dataclass
class Answer:
    """What came back for a request."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob | None] = field(default_factory=list)
    prompt_logprobs: tuple[Logprob | None, ...] | None = None
    finish: str | None = None
    error: EngineError | None = None

    def take(self, event: Event) -> None:
        match event:
            case Token():
                assert self.finish is None, "a token after the last"
                self.tokens.append(event.token)
                self.logprobs.append(event.logprob)
                self.finish = event.finish
            case PromptLogprobs():
                assert not self.tokens, "the prompt's log-probabilities come first"
                self.prompt_logprobs = event.logprobs
            case Failed():
                self.error = event.error


def engine_of(
    *sources: ReleaseSource,
    config: EngineConfig = SMALL,
    clock: Callable[[], float] = time.monotonic,
    on_loaded: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Engine:
    """An engine opened for the first source, with all of them staged."""
    config = replace(config, **settings)
    engine = Engine.open(sources[0], config, clock=clock, on_loaded=on_loaded)
    for source in sources:
        stage(engine, source)
    return engine


def stage(engine: Engine, source: ReleaseSource, *, may_lack: bool = False) -> None:
    """Load a release and wait for it. Raises what it failed with."""
    outcomes: list[EngineError | None] = []
    engine.stage(source, outcomes.append, may_lack=may_lack)
    finish(engine, {}, until=lambda: bool(outcomes))
    if outcomes[0] is not None:
        raise outcomes[0]


def finish(
    engine: Engine,
    answers: dict[str, Answer],
    *,
    until: Callable[[], bool] | None = None,
    max_steps: int = 200_000,
) -> dict[str, Answer]:
    """Step until there is no work, or `until` says so."""
    for _ in range(max_steps):
        if until() if until else not engine.has_work:
            return answers
        for event in engine.step():
            answers.setdefault(event.request, Answer()).take(event)
        if not engine.is_stepping:
            time.sleep(0.001)  # What is waited for is done by other threads: let them.
    raise AssertionError("the engine does not come to an end")


def until_all_can_be_had(engine: Engine) -> None:
    """Step until files that could not be read are found right, and requests are accepted again."""
    finish(engine, {}, until=lambda: not engine.stats().unavailable)


def answer(engine: Engine, requests: Iterable[Request]) -> dict[str, Answer]:
    """Submit all requests at once and run them to the end."""
    for request in requests:
        engine.submit(request)
    return finish(engine, {})


def prompts(lengths: Iterable[int], seed: int = 0) -> list[tuple[int, ...]]:
    """Random prompts of given lengths, of ids that every tiny model has."""
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(3, 300, (n,), generator=generator).tolist()) for n in lengths]


def greedy_requests(
    models: Iterable[str], lengths: Iterable[int], max_tokens: int, release: str = "r1"
) -> list[Request]:
    """One request for each model and prompt length; models alternate."""
    names = list(models)
    return [
        Request(f"{name}-{index}", release, name, prompt, max_tokens, GREEDY)
        for index, length in enumerate(lengths)
        for name, prompt in zip(names, prompts([length] * len(names), seed=index), strict=True)
    ]


@torch.no_grad()
def own_answer(model: Any, prompt: tuple[int, ...], max_tokens: int) -> tuple[list[int], Any]:
    """What the model's own `generate()` gives: greedy tokens, and logits (n, V) at each."""
    out = copy.deepcopy(model).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones((1, len(prompt)), dtype=torch.int64),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    given = 1 if model.config.is_encoder_decoder else len(prompt)
    return out.sequences[0, given:].tolist(), torch.cat(out.logits)


def assert_golden(
    models: Mapping[str, Any],
    requests: Iterable[Request],
    answers: Mapping[str, Answer],
    tolerance: float = 1e-4,
) -> None:
    """Every answer is its model's own: the same tokens, log-probabilities within tolerance."""
    for request in requests:
        tokens, logits = own_answer(models[request.model], request.prompt, request.max_tokens)
        got = answers[request.id]
        assert got.tokens == tokens, f"{request.id}: other tokens than generate()"
        expected = torch.log_softmax(logits.float(), dim=-1)
        for position, logprob in enumerate(got.logprobs):
            assert logprob is not None
            for token, value in [(logprob.token, logprob.logprob), *logprob.top]:
                assert abs(expected[position, token].item() - value) < tolerance, request.id

"""What requests have in common from the start is computed once, and leaks nowhere."""

from dataclasses import replace
from typing import Any

import pytest

from serve_app.engine.engine import Engine
from serve_app.engine.request import Request, Token
from tests.engine.running import (
    GREEDY,
    Answer,
    answer,
    assert_golden,
    engine_of,
    finish,
    prompts,
)
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource

SYSTEM = prompts([40])[0]
"""Two blocks of 16 tokens and a half."""


def models_of(*seeds: int, **fields: Any) -> dict[str, Any]:
    return {f"m{seed}": tiny_model("mixtral", seed, **fields) for seed in seeds}


def asked(name: str, model: str = "m1", *, after: int = 0, release: str = "r1") -> Request:
    """A request that begins as all others do; `after` says how it goes on."""
    prompt = (*SYSTEM, *prompts([7], seed=after)[0])
    return Request(name, release, model, prompt, 6, GREEDY)


def hits(engine: Engine) -> int:
    return engine.stats().counters.prefix_hit_tokens


@pytest.mark.parametrize("ahead", [False, True])
def test_a_beginning_that_was_computed_is_not_computed_again(ahead: bool) -> None:
    models = models_of(1, 2)
    engine = engine_of(MemorySource("r1", models), step_tokens=64, plan_ahead=ahead)
    requests = [asked(f"{name}-{at}", name, after=at) for at in range(3) for name in models]
    answers: dict[str, Answer] = {}
    for pair in (requests[:2], requests[2:]):
        answers |= answer(engine, pair)
    assert_golden(models, requests, answers)
    counters = engine.stats().counters
    assert counters.prefix_hit_tokens == 4 * 32
    assert counters.prefix_tokens == 6 * 47
    assert engine.stats().kv_blocks_used == 0
    engine.close()


def test_nothing_passes_between_models_tenants_and_releases() -> None:
    models, changed = models_of(1, 2), models_of(2, 1)
    renamed = {"m1": changed["m2"], "m2": changed["m1"]}
    engine = engine_of(MemorySource("r1", models), MemorySource("r2", renamed))
    first = asked("first")
    assert_golden(models, [first], answer(engine, [first]))
    others = [asked("model", "m2"), replace(asked("tenant"), tenant="other")]
    assert_golden(models, others, answer(engine, others))
    release = [asked("release", release="r2")]
    assert_golden(renamed, release, answer(engine, release))
    assert hits(engine) == 0
    again = asked("again")
    assert_golden(models, [again], answer(engine, [again]))
    assert hits(engine) == 32
    engine.close()


def test_a_retired_release_leaves_nothing_to_one_of_its_name() -> None:
    models, others = models_of(1), {"m1": tiny_model("mixtral", 5)}
    engine = engine_of(MemorySource("r1", models), MemorySource("r2", models))
    answer(engine, [asked("old"), asked("kept", release="r2")])
    done: list[bool] = []
    engine.retire("r1", lambda: done.append(True))
    finish(engine, {}, until=lambda: bool(done))
    found: list[Any] = []
    engine.stage(MemorySource("r1", others), found.append)
    finish(engine, {}, until=lambda: bool(found))
    new = asked("new")
    assert_golden(others, [new], answer(engine, [new]))
    assert hits(engine) == 0
    kept = asked("kept", release="r2")
    assert_golden(models, [kept], answer(engine, [kept]))
    assert hits(engine) == 32
    engine.close()


def test_log_probabilities_of_a_prompt_are_computed_whatever_is_known() -> None:
    models = models_of(1)
    engine = engine_of(MemorySource("r1", models))
    answer(engine, [asked("first")])
    found = answer(engine, [replace(asked("scored"), prompt_logprobs=1)])["scored"]
    assert found.prompt_logprobs is not None
    assert all(logprob is not None for logprob in found.prompt_logprobs[1:])
    assert engine.stats().counters.prefix_tokens == 47
    engine.close()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_models_whose_keys_depend_on_length_share_nothing(rope_type: str) -> None:
    rope = {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 4.0}
    if rope_type == "longrope":
        factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
        rope |= {**factors, "original_max_position_embeddings": 32}
    length = 32 if rope_type == "dynamic" else 128
    models = models_of(1, head_dim=8, max_position_embeddings=length, rope_parameters=rope)
    engine = engine_of(MemorySource("r1", models))
    requests = [asked("first"), asked("second", after=1)]
    if rope_type == "dynamic":
        requests = [replace(r, prompt=r.prompt[:20]) for r in requests]
    for request in requests:
        assert_golden(models, [request], answer(engine, [request]))
    assert engine.stats().counters.prefix_tokens == 0
    engine.close()


def test_the_first_token_says_how_much_of_the_prompt_was_found() -> None:
    engine = engine_of(MemorySource("r1", models_of(1)))
    answer(engine, [asked("first")])
    engine.submit(asked("second"))
    found = []
    while engine.has_work:
        found += [event.num_cached for event in engine.step() if isinstance(event, Token)]
    assert found == [32, 0, 0, 0, 0, 0]
    engine.close()


def test_it_can_be_turned_off() -> None:
    engine = engine_of(MemorySource("r1", models_of(1)), prefix_cache=False)
    for name in ("first", "second"):
        answer(engine, [asked(name)])
    assert engine.stats().counters.prefix_tokens == 0
    engine.close()

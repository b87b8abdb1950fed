"""Answers of an engine that obey a grammar, beside others that do not."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from serve_app.engine.memory import plan_memory
from serve_app.engine.request import Sampling
from serve_app.engine.run.masking import masked
from serve_app.errors import GrammarLost
from serve_app.text.tokenizer import Tokenizer
from tests.engine.running import SMALL, engine_of
from tests.grammar.obeying import Obeying, wrong
from tests.grammar.schemas import made_up
from tests.support.checkpoints import byte_tokenizer, tiny_model
from tests.support.sources import MemorySource

NAMES = ("a", "b", "c")
END = 2
MODELS = {name: tiny_model("mixtral", seed) for seed, name in enumerate(NAMES)}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "t": {"enum": ["x", "y"]},
    },
    "required": ["n", "t"],
    "additionalProperties": False,
}


def opened(**options: Any) -> Obeying:
    engine = engine_of(MemorySource("r1", MODELS), **options)
    return Obeying(engine, Tokenizer(byte_tokenizer()))


@pytest.fixture(params=[False, True], ids=["planned after", "planned ahead"], scope="module")
def made(request: pytest.FixtureRequest) -> Iterator[Obeying]:
    made = opened(plan_ahead=request.param)
    yield made
    made.engine.close()


def test_answers_obey_schemas_of_all_kinds(made: Obeying) -> None:
    schemas = [made_up(seed) for seed in range(24)]
    requests = [
        made.request(f"{at}", NAMES[at % 3], made.grammar("json", schema))
        for at, schema in enumerate(schemas)
    ]
    answers = made.answers(requests)
    ended = [at for at in range(24) if answers[f"{at}"].finish == "complete"]
    assert ended
    assert [wrong(schemas[at], made.text(answers[f"{at}"])) for at in ended] == [None] * len(ended)


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(seed=3, top_p=0.9)])
def test_free_rows_answer_beside_others_as_they_do_alone(made: Obeying, sampling: Sampling) -> None:
    free = [made.request(f"free-{n}", n, None, 12, sampling=sampling) for n in NAMES]
    held = [made.request(f"held-{n}", n, made.grammar("json", SCHEMA)) for n in NAMES]
    alone, beside = made.answers(free), made.answers([*held, *free])
    for request in free:
        assert beside[request.id].tokens == alone[request.id].tokens
    for request in held:
        assert wrong(SCHEMA, made.text(beside[request.id])) is None


def test_a_seed_gives_the_same_alone_and_beside_others_ahead_or_not(made: Obeying) -> None:
    requests = [made.request(f"x-{n}", n, made.grammar("json", SCHEMA)) for n in NAMES]
    beside = made.answers(requests)
    other = opened(plan_ahead=False)
    for request in requests:
        assert other.answers([request])[request.id].tokens == beside[request.id].tokens
    other.engine.close()


def test_an_answer_ends_where_nothing_may_follow_whatever_else_is_asked(made: Obeying) -> None:
    grammar = made.grammar("choice", ["yes", "no"])
    asked: dict[str, Any] = {"min_tokens": 40, "stop_token_ids": frozenset()}
    got = made.answers([made.request("q", "a", grammar, 50, **asked)])["q"]
    assert made.text(got) in ("yes", "no")
    assert got.finish == "complete"


def test_an_answer_that_may_end_ends_with_a_stop_and_not_before_the_least(made: Obeying) -> None:
    grammar = made.grammar("regex", "a*")
    eager = Sampling(temperature=0, logit_bias=((END, 100.0),))
    got = made.answers([made.request("q", "a", grammar, 9, sampling=eager, min_tokens=4)])["q"]
    assert (made.text(got), got.finish) == ("aaaa", "stop")


def test_bias_and_penalties_choose_among_what_may_come(made: Obeying) -> None:
    letter = made.tokenizer.encode("z", special=False)[0]
    sampling = Sampling(
        temperature=0, logit_bias=((letter, 100.0),), repetition_penalty=1.5, logprobs=1
    )
    grammar = made.grammar("regex", "[xz]{3}y")
    got = made.answers([made.request("q", "b", grammar, sampling=sampling)])["q"]
    assert made.text(got) == "zzzy"
    assert got.logprobs[-1] is not None  # the model's own, of all tokens
    assert got.logprobs[-1].logprob < -1


def test_a_stop_token_that_is_text_may_be_written_before_the_least(made: Obeying) -> None:
    stop = made.tokenizer.encode("b", special=False)[0]
    grammar = made.grammar("regex", "ab{4}")
    asked: dict[str, Any] = {"stop_token_ids": frozenset({stop}), "min_tokens": 3}
    got = made.answers([made.request("q", "a", grammar, **asked)])["q"]
    assert (got.finish, len(got.tokens)) == ("stop", 4)


def test_what_gave_way_goes_on_where_it_was(made: Obeying) -> None:
    least = plan_memory(MemorySource("r1", MODELS), replace(SMALL, kv_tokens=64))
    two_places = least.total_bytes - least.place_bytes
    narrow = opened(kv_tokens=64, device_memory=two_places, plan_ahead=True)
    grammar = made.grammar("regex", "[a-z]{24}")
    requests = [made.request(f"{n}{at}", n, grammar, 40) for n in NAMES for at in range(3)]
    alike, answers = made.answers(requests), narrow.answers(requests)
    assert narrow.engine.stats().num_preemptions > 0
    for request in requests:
        assert answers[request.id].finish == "complete"
        assert answers[request.id].tokens == alike[request.id].tokens
    narrow.engine.close()


def test_a_model_that_gives_nothing_that_may_come_fails_and_no_other(
    made: Obeying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if its vocabulary ended before the only token that may come."""
    free = made.request("free", "a", None, 4)
    alone = made.answers([free])["free"]
    held = made.request("held", "b", made.grammar("choice", ["yes"]))
    _refuse_all(monkeypatch)
    answers = made.answers([held, free])
    assert isinstance(answers["held"].error, GrammarLost)
    assert answers["held"].tokens == []
    assert answers["free"].tokens == alone.tokens


def _refuse_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(logits: Any, rows: Any, words: Any) -> Any:
        return masked(logits, rows, words.zero_())

    monkeypatch.setattr("serve_app.engine.run.sampling.masked", nothing)

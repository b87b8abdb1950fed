"""Requests to an engine that are to end by a time."""

from dataclasses import replace
from typing import Any

from serve_app.errors import DeadlineMissed
from tests.engine.running import Answer, assert_golden, engine_of, finish, greedy_requests
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource


def test_requests_that_are_late_fail_and_others_do_not_notice() -> None:
    now = 0.0
    models: dict[str, Any] = {"m0": tiny_model("mixtral", 0)}
    source = MemorySource("r1", models)
    engine = engine_of(source, clock=lambda: now, max_sequences=2)
    kept, late, waiting = greedy_requests(["m0"], [5, 6, 7], max_tokens=12)
    for request, deadline in ((kept, None), (late, 10.0), (waiting, 5.0)):
        engine.submit(replace(request, deadline=deadline))
    answers: dict[str, Answer] = {}

    def step(until: int) -> None:
        finish(engine, answers, until=lambda: len(answers[late.id].tokens) >= until)

    answers[late.id] = Answer()
    step(3)
    now = 5.0
    step(4)
    assert isinstance(answers[waiting.id].error, DeadlineMissed)
    assert answers[waiting.id].tokens == []
    assert answers[late.id].error is None
    now = 10.0
    finish(engine, answers)
    assert isinstance(answers[late.id].error, DeadlineMissed)
    assert 4 <= len(answers[late.id].tokens) < 12
    assert_golden(models, [kept], answers)
    assert engine.stats().kv_blocks_used == 0
    engine.close()

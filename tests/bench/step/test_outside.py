"""Turns of a running loop are timed by a clock, and their stages apart."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from serve_app.bench.step.grid import Grid
from serve_app.bench.step.outside import SEQUENCES, measure_outside, outside_points
from serve_app.bench.step.outside_table import COLUMNS, outside_table
from serve_app.bench.step.session import GREEDY
from serve_app.bench.step.timing import Conditions, limit_of, open_engine
from serve_app.bench.step.turns import STAGES, DecodingLoop, Turn, decoding_loop, medians
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.errors import ConfigError, EngineError
from tests.bench.tiny import tiny_config

CONDITIONS = Conditions(EngineConfig(device="cpu", dtype="float32", step_tokens=256), num_steps=3)
GRID = Grid(["decode"], [1, 2], [4], [8, 4])


def release() -> RandomRelease:
    return RandomRelease(tiny_config(), 2, dtype="float32")


def test_every_number_of_sequences_is_measured_with_the_most_models_of_the_grid() -> None:
    points = outside_points(GRID, limit_of(release(), CONDITIONS))
    assert [point.sequences for point in points] == list(SEQUENCES)
    assert {(point.models, point.context) for point in points} == {(2, 4)}
    few = Conditions(EngineConfig(device="cpu", step_tokens=255), num_steps=3)
    with pytest.raises(ConfigError, match="sequences 256"):
        outside_points(GRID, limit_of(release(), few))


def test_rows_have_processor_time_of_each_stage_both_greedy_and_drawn() -> None:
    points = outside_points(GRID, limit_of(release(), CONDITIONS))[:1]
    rows = measure_outside(release(), points, CONDITIONS)
    assert [row["sampling"] for row in rows] == ["greedy", "drawn"]
    for row in rows:
        stages = [row[f"{stage}_s"] for stage in STAGES]
        assert min(stages) > 0
        assert sum(stages) < 1.5 * row["outside_s"]
        assert row["outside_s"] + row["forward_s"] == pytest.approx(row["turn_s"], rel=0.5)
        assert row["steps"] == 3
    table = outside_table(rows)
    assert [cells[:2] for cells in table.rows] == [["greedy", "16"], ["drawn", "16"]]
    assert {len(cells) for cells in table.rows} == {len(COLUMNS)}


def test_what_no_stage_has_counts_as_outside_and_waiting_does_not() -> None:
    turns = [Turn(10.0, 4.0, 1.0, dict.fromkeys(STAGES, 0.5)) for _ in range(3)]
    found = medians(turns)
    assert (found["outside_s"], found["planning_s"], found["turn_s"]) == (5.0, 0.5, 10.0)


def test_every_turn_between_tokens_is_timed_by_the_clock_that_is_given() -> None:
    ticks = itertools.count()
    with loop_of(lambda: float(next(ticks))) as loop:
        turns = loop.turns(["m0", "m1"], 4, 3, GREEDY)
        again = loop.turns(["m1"], 4, 5, GREEDY)
    assert (len(turns), len(again)) == (3, 5)
    for turn in turns:
        assert turn.forward == 1.0
        assert turn.stages["messages"] == 1.0 + 2.0, "made; delivered, while one event is noted"


def test_a_request_that_fails_is_the_error_of_the_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no logits today")

    with loop_of(itertools.count().__next__) as loop:
        monkeypatch.setattr("serve_app.engine.run.runner.sample", broken)
        with pytest.raises(EngineError, match="no logits today"):
            loop.turns(["m0"], 4, 3, GREEDY)


def loop_of(clock: Callable[[], float]) -> AbstractContextManager[DecodingLoop]:
    def opened(wake: Callable[[], None], clock: Callable[[], float]) -> Engine:
        points = outside_points(GRID, limit_of(release(), CONDITIONS))[:1]
        return open_engine(release(), 2, points, CONDITIONS, on_loaded=wake, clock=clock)

    return decoding_loop(opened, release(), step_tokens=256, clock=clock)

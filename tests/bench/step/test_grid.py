"""Which steps are measured, and what is refused before anything is built."""

import pytest

from serve_app.bench.step.grid import Grid, GridPoint, Limit, models_of, require_places
from serve_app.errors import ConfigError

LIMIT = Limit(models=4, context=256, step_tokens=128, num_steps=10)


def test_every_combination_that_makes_sense_is_a_point() -> None:
    grid = Grid(["decode", "prefill"], [1, 4], [2, 8], [16, 32])
    points = grid.points(LIMIT)
    assert len(points) == len(set(points))
    assert [p for p in points if p.sequences < p.models] == []
    assert GridPoint("decode", 4, 8, 32) in points
    assert GridPoint("prefill", 4, 8, 16) in points
    assert GridPoint("prefill", 4, 8, 32) not in points  # 256 tokens


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (Grid(["decode"], [1, 8], [8], [16]), "models 8: it is 1 to 4"),
        (Grid(["decode"], [1], [1], [300]), "context 300: with 21 more .* the 256"),
        (Grid(["decode"], [1], [8], [240]), "context 240: with 34 more"),
        (Grid(["prefill"], [1], [1], [256]), "context 256: with 1 more"),
        (Grid(["decode"], [2, 4], [2], [16]), "models 4: no step"),
        (Grid(["decode", "prefill"], [1], [8], [64]), "prefill: every step .* 128 tokens"),
        (Grid(["decode"], [2], [1, 2], [16]), "sequences 1: no step"),
    ],
)
def test_a_value_that_no_point_could_have_is_refused_by_name(grid: Grid, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grid.points(LIMIT)


def test_places_are_for_the_models_of_a_step_and_no_more_than_there_are() -> None:
    require_places([2, 4], [1, 2], 4)
    with pytest.raises(ConfigError, match="places 1: a step needs 2 models"):
        require_places([1], [1, 2], 4)
    with pytest.raises(ConfigError, match="places 8: it is 1 to 4"):
        require_places([8], [1, 2], 4)


def test_sequences_are_spread_evenly_over_models() -> None:
    assert list(models_of(GridPoint("decode", 2, 5, 16), ["a", "b", "c"])) == [
        "a",
        "b",
        "a",
        "b",
        "a",
    ]

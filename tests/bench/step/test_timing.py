"""Points are measured on a real engine; of the times only that there are some is tested."""

import pytest

from serve_app.bench.step.grid import Grid, Variant
from serve_app.bench.step.rates import Rates
from serve_app.bench.step.timing import Conditions, limit_of, measure, with_ratios
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.engine.config import EngineConfig
from tests.bench.tiny import tiny_config

RATES = Rates(1e9, {"bfloat16": 1e9})
CONDITIONS = Conditions(EngineConfig(device="cpu", dtype="float32", step_tokens=64), num_steps=3)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    grid = Grid(["decode", "prefill"], [1, 2], [4], [8])
    points = grid.points(limit_of(RandomRelease(tiny_config(), 3), CONDITIONS))
    done: list[int] = []
    variants = [Variant(places, "dense", kind) for places in (2, 3) for kind in ((), ("rank-2",))]
    found = measure(
        lambda variant: RandomRelease(tiny_config(), 3, residuals=variant.residuals),
        variants,
        points,
        CONDITIONS,
        RATES,
        done.append,
    )
    assert done == list(range(1, 17))
    return found


def test_each_point_of_each_variant_has_a_time_a_floor_and_its_bytes(
    rows: list[dict[str, object]],
) -> None:
    for row in rows:
        assert row["step_s"] > 0  # type: ignore[operator]
        assert row["reached"] == pytest.approx(row["floor_s"] / row["step_s"])  # type: ignore[operator]
        parts = ("pool_bytes", "backbone_bytes", "kv_bytes", "state_bytes", "logits_bytes")
        assert row["bytes"] == sum(row[part] for part in parts)  # type: ignore[misc]
    assert {row["steps"] for row in rows} == {3}


def test_routing_is_counted_in_the_step_itself(rows: list[dict[str, object]]) -> None:
    """Four tokens with two experts each touch 2 to 4 slots of either layer, whoever's they are."""
    bare = [row for row in rows if row["phase"] == "decode" and not row["residuals"]]
    assert all(4 <= row["pool_rows"] <= 8 for row in bare)  # type: ignore[operator]


def test_several_models_are_held_against_one_and_residuals_against_none() -> None:
    base = {
        "phase": "decode",
        "models": 1,
        "sequences": 4,
        "context": 8,
        "places": 2,
        "parts": "dense",
        "residuals": [],
        "step_s": 2.0,
        "bytes": 100,
    }
    both = base | {"models": 2, "residuals": ["rank-2"], "step_s": 9.0, "bytes": 180}
    signs = base | {"residuals": ["rank-2"], "step_s": 3.0, "bytes": 150}
    models = base | {"models": 2, "step_s": 5.0, "bytes": 120}
    found = with_ratios([base, both, signs, models])
    assert found[0] == base
    assert found[1]["time_over_one_model"] == 3.0
    assert found[1]["bytes_over_no_residuals"] == 1.5
    assert found[2]["time_over_no_residuals"] == 1.5
    assert found[3]["time_over_one_model"] == 2.5
    assert "time_over_no_residuals" not in found[3]

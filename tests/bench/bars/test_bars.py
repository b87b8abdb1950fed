"""Bars: what is made of measurements, and what becomes of a measure that fails."""

import pytest

from serve_app.bench.bars.bar_list import BARS
from serve_app.bench.bars.bars import MEASURES, measure_bars
from serve_app.bench.result.measured import Measured, OnProgress


def test_the_bars_are_these() -> None:
    assert {name: (bar.limit, bar.at_least) for name, bar in BARS.items()} == {
        "packed_over_sequential": (0.65, False),
        "packed_over_single": (1.6, False),
        "four_bits_over_dense": (0.7, False),
        "four_bits_alone_over_dense": (0.6, False),
        "four_bits_products_over_dense": (0.5, False),
        "four_bits_products_alone_over_dense": (0.4, False),
        "one_size_over_dense": (1.2, False),
        "codes_read_over_copied": (0.5, True),
        "launches_a_layer": (6, False),
        "engine_over_transformers": (1.2, True),
        "outside_forward_share": (0.10, False),
        "outside_forward_ms": (3.0, False),
        "http_over_engine": (0.85, True),
        "http_us_at_16_streams": (150.0, False),
        "http_us_at_64_streams": (60.0, False),
        "cold_over_resident_ttft": (1.5, False),
        "running_tpot_during_load": (1.15, False),
        "pool_over_isolated_turnaround": (0.8, False),
        "scaling": (1.0, False),
        "hybrid_packed_over_sequential": (0.65, False),
        "state_update_over_copied": (3.0, False),
        "encoders_packed_over_sequential": (0.65, False),
        "encoders_over_transformers": (1.5, True),
        "consolidate_over_read": (300.0, False),
    }


def test_every_bar_has_one_measure() -> None:
    assert sorted(name for together in MEASURES for name in together) == sorted(BARS)


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        ("packed_over_single", 1.6, True),
        ("packed_over_single", 1.61, False),
        ("http_over_engine", 0.85, True),
        ("http_over_engine", 0.84, False),
    ],
)
def test_a_bar_holds_up_to_its_limit(name: str, value: float, holds: bool) -> None:
    rows, facts = measure_bars([name], {(name,): lambda _: {name: Measured(value, {"of": 1})}})
    assert [(row["name"], row["value"], row["holds"]) for row in rows] == [(name, value, holds)]
    assert facts == {name: {"of": 1}}


def test_a_measure_that_fails_says_why_and_stops_no_other() -> None:
    def fails(on_progress: OnProgress) -> dict[str, Measured]:
        raise OSError("no room")

    names = ["packed_over_single", "scaling", "http_over_engine"]
    rows, _ = measure_bars(
        names,
        {("packed_over_single",): fails, ("scaling",): lambda _: {"scaling": Measured(0.5)}},
    )
    assert [row["name"] for row in rows] == names
    assert [row["holds"] for row in rows] == [False, True, False]
    assert (rows[0]["value"], rows[0]["why"]) == (None, "no room")
    assert rows[2]["value"] is None


def test_only_what_is_asked_for_is_measured() -> None:
    def never(on_progress: OnProgress) -> dict[str, Measured]:
        raise AssertionError("was not asked for")

    both = {"packed_over_sequential": Measured(0.5), "packed_over_single": Measured(1.5)}
    measures = {
        ("packed_over_sequential", "packed_over_single"): lambda _: both,
        ("scaling",): never,
    }
    rows, _ = measure_bars(["packed_over_single"], measures)
    assert [row["name"] for row in rows] == ["packed_over_single"]

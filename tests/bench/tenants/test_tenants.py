"""`bench tenants`: small runs of what needs no endpoint, and what is shown."""

from collections.abc import Mapping

import pytest

from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.weight_specs import RandomSpec
from serve_app.bench.bars.bars import Measure, measure_bars
from serve_app.bench.benchmark_pages import page
from serve_app.bench.requests.workload import Asked
from serve_app.bench.result.measured import Measured
from serve_app.bench.result.sections import Table
from serve_app.bench.tenants import backlogged
from serve_app.bench.tenants.keeping import keeping_cost
from serve_app.bench.tenants.planning import planning_ms
from serve_app.bench.tenants.quiet import quiet_beside_flood
from serve_app.bench.tenants.tenants_benchmark import MEASURES, ROWS
from serve_app.bench.tenants.tenants_terminal import terminal
from serve_app.bench.weights.random_release import RandomRelease
from serve_app.engine.config import EngineConfig
from tests.bench.result.results import result
from tests.bench.tiny import tiny_config


def test_every_row_is_measured_once() -> None:
    assert sorted(name for names in MEASURES for name in names) == sorted(ROWS)


def test_terminal_and_page_show_each_row_with_its_bar_and_why_one_is_missing() -> None:
    def measure(_: object) -> dict[str, Measured]:
        return {"planning_ms": Measured(0.5)}

    measures: Mapping[tuple[str, ...], Measure] = {("planning_ms",): measure}
    rows, _ = measure_bars(["planning_ms", "jain_of_two_tenants"], measures, bars=ROWS)
    found = result("tenants", rows)
    table, *words = terminal(found)
    assert isinstance(table, Table)
    assert list(table.rows) == [
        ["planning_ms", "0.500", "≤ 1", "yes"],
        ["jain_of_two_tenants", "–", "≥ 0.98", "no"],
    ]
    assert "jain_of_two_tenants: nothing measures it" in words
    assert "planning_ms" in page(found)


def test_planning_is_timed_while_all_tenants_wait() -> None:
    found = planning_ms(20, num_steps=120)
    assert found.value > 0.0
    assert found.facts["p99_ms"] >= found.value


def test_two_tenants_that_wait_get_the_same_within_the_bound() -> None:
    source = RandomRelease(tiny_config(vocab_size=512), 3, dtype="float32")
    found = backlogged.backlogged(source, few=24, tokens=4)
    got = found["jain_of_two_tenants"].facts["virtual_tokens"]
    assert set(got) == {"few", "many"}
    assert found["jain_of_two_tenants"].value > 0.9
    assert found["tenants_apart_over_bound"].value <= 1.0


@pytest.mark.ray
@pytest.mark.slow
def test_a_quiet_tenant_and_what_keeping_costs_are_measured_on_endpoints_with_keys() -> None:
    names = tuple(f"m{number}" for number in range(2))
    engine = EngineConfig(device="cpu", dtype="bfloat16", kv_tokens=4096, max_sequences=32)
    ground = Ground(RandomSpec(tiny_config(vocab_size=8192), 2, "bfloat16"), names, engine)
    asked = [Asked(name, 128, 8192) for name in names]
    found = quiet_beside_flood(ground, asked, rounds=1)
    assert found.value > 0.0
    assert len(found.facts["alone_p99_s"]) == 1
    cost = keeping_cost(ground, asked, rounds=1, turns=1)
    assert cost.value > 0.0
    (us,) = cost.facts["us_with"]
    assert {"engine", "ingress", "text"} <= set(us)

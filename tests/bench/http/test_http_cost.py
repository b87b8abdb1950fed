"""What a streamed token costs: the arithmetic, what is shown, and a small endpoint for real."""

from dataclasses import replace

import pytest

from serve_app.bench.arms.weight_specs import RandomSpec
from serve_app.bench.bars.compared import bars_subject
from serve_app.bench.bars.streaming import us_per_token
from serve_app.bench.benchmark_pages import page
from serve_app.bench.http.http_cost import Streamed, Watched
from serve_app.bench.http.http_terminal import terminal
from serve_app.bench.result.sections import Table
from tests.bench.result.results import result
from tests.bench.tiny import tiny_config

IDLE = Watched(10.0, {"engine": 0.1, "ingress": 0.2, "raylet": 0.5})
BUSY = Watched(2.0, {"engine": 1.02, "ingress": 0.14, "raylet": 0.05, "client": 0.5, "text": 0.03})


def test_a_token_costs_what_a_process_takes_beyond_its_idle_load() -> None:
    row = Streamed(16, 1000, BUSY).to_json(IDLE)
    assert row["tokens_per_s"] == 500.0
    assert row["us_per_token"] == pytest.approx(
        {"engine": 1000.0, "ingress": 100.0, "raylet": 0.0, "client": 500.0, "text": 30.0}
    )
    assert row["outside_us_per_token"] == pytest.approx(130.0)


def test_terminal_and_page_show_every_process_the_client_last_and_the_sum() -> None:
    rows = [Streamed(streams, 1000, BUSY).to_json(IDLE) for streams in (16, 64)]
    found = result("http", rows, idle_ms_per_s={"engine": 10.0, "raylet": 50.0})
    table = terminal(found)[0]
    assert isinstance(table, Table)
    assert table.columns == ["process", "16 streams", "64 streams", "idle, ms a second"]
    assert [row[0] for row in table.rows] == [
        "engine",
        "text",
        "ingress",
        "raylet",
        "client",
        "all but engine and client",
        "tokens/s",
    ]
    assert table.rows[0] == ["engine", "1000.0", "1000.0", "10.0"]
    assert table.rows[5] == ["all but engine and client", "130.0", "130.0", ""]
    drawn = page(found)
    assert "all but engine and client" in drawn
    assert "<svg" in drawn


@pytest.mark.ray
@pytest.mark.slow
def test_an_endpoint_is_watched_process_by_process_and_loses_nothing() -> None:
    subject = bars_subject()
    source = RandomSpec(tiny_config(vocab_size=8192), 4, "bfloat16")
    subject = replace(subject, ground=replace(subject.ground, source=source), tokens=8)
    stages: list[tuple[str, int, int]] = []
    found = us_per_token(subject, (4,), lambda *stage: stages.append(stage))
    facts = found[4].facts
    assert facts["tokens"] == 3 * 4 * 8
    assert found[4].value == facts["outside_us_per_token"] > 0.0
    assert {"engine", "ingress", "raylet", "gcs_server", "client"} <= set(facts["us_per_token"])
    assert facts["us_per_token"]["engine"] > 0.0
    assert facts["us_per_token"]["ingress"] > 0.0
    assert ("4 streams", 4, 4) in stages

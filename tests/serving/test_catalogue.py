"""Tokens, models, readiness and metrics over HTTP, by a replica on a fake engine."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from serve_app.engine.backlog import Backlog
from serve_app.serving.metrics.counting import OTHER, TenantLabels
from serve_app.serving.metrics.metrics_table import METRICS
from serve_app.serving.metrics.snapshot import ReleaseState, Snapshot
from tests.serving.asking import CHAT, HELLO, ask, chatty, refused
from tests.serving.fakes import CONTEXT, TOKENIZER, FakeLoop, source, world
from tests.serving.metric_pages import of_one
from tests.serving.running import client_of, replica_of, serves

RUNNING = {("r1", "a"): 2, ("r2", "a"): 3, ("r1", "old"): 1}


def test_tokenize_and_detokenize_are_inverse() -> None:
    response = ask("/tokenize", {"model": "a", "prompt": "jolly wolf"})
    assert response.json() == {"tokens": HELLO, "count": len(HELLO), "max_model_len": CONTEXT}
    response = ask("/detokenize", {"model": "a", "tokens": HELLO})
    assert response.json() == {"prompt": "jolly wolf"}
    response = ask("/tokenize", CHAT, chatty())
    assert response.json()["tokens"] == TOKENIZER.encode("user: hi\n")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {"model": "zz", "prompt": "x"}, 404),
        ("/tokenize", {"model": "a"}, 400),
        ("/tokenize", {"model": "a", "messages": [{"role": "user", "content": "x"}]}, 400),
        ("/detokenize", {"model": "zz", "tokens": []}, 404),
        ("/detokenize", {"model": "a", "tokens": [400]}, 400),
        ("/detokenize", {"model": "a", "tokens": ["x"]}, 400),
    ],
)
def test_texts_that_cannot_be_turned_are_refused(
    path: str, body: dict[str, Any], status: int
) -> None:
    assert ask(path, body).status_code == status


def test_the_catalogue_lists_the_models() -> None:
    async def run() -> None:
        made = world("b", "a", longest=9)
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            listed = (await client.get("/v1/models")).json()
            assert listed["object"] == "list"
            assert [card["id"] for card in listed["data"]] == ["a", "b"]
            card = (await client.get("/v1/models/b")).json()
            assert card["object"] == "model"
            assert (card["owned_by"], card["created"], card["release"]) == ("fam", 1234, "r1")
            assert (card["max_model_len"], card["max_prompt_len"]) == (CONTEXT, 9)
            refused(await client.get("/v1/models/c"), 404, "model_not_found", "model")

    asyncio.run(run())


def test_nothing_is_ready_before_a_release_serves() -> None:
    async def run() -> None:
        made = world()
        made.registry.channels.clear()
        async with replica_of(made) as replica, client_of(replica) as client:
            assert (await client.get("/health")).status_code == 200
            for response in (
                await client.get("/ready"),
                await client.get("/v1/models"),
                await client.post("/v1/completions", json={"model": "a", "prompt": "x"}),
                await client.post("/tokenize", json={"model": "a", "prompt": "x"}),
            ):
                refused(response, 503, "loading", None)
                assert int(response.headers["retry-after"]) >= 1
            made.registry.channels["stable"] = "r1"
            await serves(replica, "r1")
            ready = await client.get("/ready")
            assert (ready.status_code, ready.json()["release"]) == (200, "r1")

    asyncio.run(run())


def test_counts_that_do_not_add_up_are_shown_and_no_illness() -> None:
    async def run() -> None:
        made = world()
        async with replica_of(made) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            for broken in (None, "blocks were lost"):
                made.loop.broken = broken
                response = await client.get("/health")
                assert (response.status_code, response.json()["status"]) == (200, "ok")
                assert response.json()["detail"]["broken_invariant"] == broken
                page = of_one((await client.get("/metrics")).text)
                assert f"expertpool_broken_invariants {float(broken is not None)}" in page

    asyncio.run(run())


def test_metrics_count_what_happened() -> None:
    async def run() -> str:
        async with replica_of(world(answers={"a": HELLO})) as replica, client_of(replica) as client:
            await serves(replica, "r1")
            body = {"model": "a", "prompt": "the", "max_tokens": 5}
            await client.post("/v1/completions", json=body)
            await client.post("/v1/completions", json={**body, "model": "zz"})
            await client.post("/v1/completions", json={**body, "service_tier": "flex"})
            return of_one((await client.get("/metrics")).text)

    text = asyncio.run(run())
    labels = 'model_name="a",service_class="standard",side="stable",tenant="default"'
    for idle in ("running", "waiting"):  # a gauge that goes away at rest cannot be watched
        assert f'expertpool_num_requests_{idle}{{model_name="b"}} 0.0' in text
    assert f"expertpool_generation_tokens_total{{{labels}}} 5.0" in text
    assert f"expertpool_time_to_first_token_seconds_count{{{labels}}} 1.0" in text
    assert f"expertpool_inter_token_latency_seconds_count{{{labels}}} 4.0" in text
    batch = labels.replace("standard", "batch")
    assert f"expertpool_request_queue_time_seconds_count{{{batch}}} 1.0" in text
    for stage in ("queue", "prefill", "decode"):
        assert f"expertpool_request_{stage}_time_seconds_count{{{labels}}} 1.0" in text
    assert 'expertpool_request_success_total{finished_reason="length",' in text
    refused = 'code="model_not_found",side="stable",tenant="default"'
    assert f"expertpool_request_errors_total{{{refused}}} 1.0" in text
    assert 'expertpool_release_info{release="r1",side="stable"} 1.0' in text
    assert "expertpool_engine_steps_total 3.0" in text
    assert "expertpool_pool_bytes 5000.0" in text
    names = {line.split()[2].removesuffix("_total") for line in text.splitlines() if "# T" in line}
    table = {f"expertpool_{metric.name}".removesuffix("_total") for metric in METRICS}
    assert names == table


def test_what_is_counted_or_read_is_in_the_table_once() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.help, metric.name
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name


def test_sequences_of_a_model_are_summed_over_releases_and_idle_models_have_none() -> None:
    stats = replace(FakeLoop(source("r1"), manual=True).stats(), num_running_by_model=RUNNING)
    look = Snapshot(
        stats,
        trouble=None,
        releases=ReleaseState(serving="r2"),
        models=("a", "idle"),
        backlogs={},
        open_choices=0,
        max_open_choices=9,
        start_s=1.5,
        text_restarts=0,
    )
    [running] = [metric.get for metric in METRICS if metric.name == "num_requests_running"]
    assert running is not None
    assert running(look) == {("a",): 5, ("old",): 1, ("idle",): 0}
    assert running(replace(look, engine=None)) == {}


def test_tenants_beyond_the_bound_share_one_label() -> None:
    labels = TenantLabels(2)
    assert [labels.of(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", OTHER, "a", OTHER]
    waiting = {"a": Backlog(num_waiting=1), "c": Backlog(num_waiting=2), "d": Backlog(1, 3, 9)}
    assert labels.summed(waiting) == {
        "a": Backlog(num_waiting=1),
        "b": Backlog(),
        OTHER: Backlog(num_running=1, num_waiting=5, waiting_tokens=9),
    }


def test_the_catalogue_says_how_few_tokens_a_byte_may_be() -> None:
    async def run() -> None:
        made = world("b", "a")
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            weights = (await replica.models("t"))["weights"]
            assert weights is not None
            text = "the café of the jolly wolf"
            fewest = sum(weights[byte] for byte in text.encode()) - 1
            assert 0 < fewest <= len(TOKENIZER.encode(text))

    asyncio.run(run())

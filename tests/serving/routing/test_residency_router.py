"""What Serve's router gets to choose from, as Serve calls it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from serve_app.serving.routing.replica_facts import ReplicaFacts
from serve_app.serving.routing.residency_router import ResidencyRouter


def replica(name: str, **facts: Any) -> Any:
    told = ReplicaFacts(**facts).tell() if facts else {}
    return SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), routing_stats=told)


def chosen(replicas: list[Any], ongoing: dict[str, int], *args: Any) -> list[list[str]]:
    """The names of what Serve would try, in order."""
    router: Any = object.__new__(ResidencyRouter)
    lengths = SimpleNamespace(get=lambda replica_id: ongoing.get(replica_id.unique_id))
    router._replica_queue_len_cache = lengths
    pending: Any = SimpleNamespace(
        args=list(args), routing_context=SimpleNamespace(should_backoff=False)
    )
    found = asyncio.run(router.choose_replicas(replicas, pending))
    assert pending.routing_context.should_backoff, "Serve would ask again without a pause"
    return [[one.replica_id.unique_id for one in rank] for rank in found]


JOB = {"model": "a", "tenant": "t", "prompts": ["x"], "chat": None, "release": None}


@pytest.mark.parametrize("holder", ["r1", "r2"])
def test_a_job_is_offered_to_all_and_first_to_who_holds_its_model(holder: str) -> None:
    replicas = [replica(n, resident={"a"}) if n == holder else replica(n) for n in ("r1", "r2")]
    ranks = chosen(replicas, {}, JOB, "ingress")
    assert ranks[0] == [holder]
    assert sorted(name for [name] in ranks) == ["r1", "r2"]


@pytest.mark.parametrize("arguments", [(), ("tenant",), ("status", 3)])
def test_questions_go_to_the_least_busy(arguments: tuple[Any, ...]) -> None:
    replicas = [replica("r1", resident={"a"}), replica("r2")]
    assert chosen(replicas, {"r1": 5, "r2": 2}, *arguments) == [["r2"], ["r1"]]


def test_a_replica_that_has_not_told_yet_takes_jobs() -> None:
    assert chosen([replica("r1")], {}, JOB, "ingress") == [["r1"]]

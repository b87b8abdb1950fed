"""Which replica a job goes to: by its model, by how its text begins, and by who is busy."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from serve_app.serving.routing.preference import Candidate, Sought, ranked, sought_by
from serve_app.serving.routing.replica_facts import ReplicaFacts

NAMES = ("r1", "r2", "r3")
NOTHING: Mapping[str, ReplicaFacts] = {}


def candidates(
    ongoing: Sequence[int] = (0, 0, 0), facts: Mapping[str, ReplicaFacts] = NOTHING
) -> list[Candidate]:
    """facts: of replicas, by name."""
    return [
        Candidate(name, num, facts.get(name, ReplicaFacts()))
        for name, num in zip(NAMES, ongoing, strict=True)
    ]


def sought(model: str = "chat", text: str = "once", release: str | None = None) -> Sought:
    job = {"tenant": "acme", "model": model, "prompts": [text], "chat": None, "release": release}
    found = sought_by(job)
    assert found is not None
    return found


def chat(*texts: str, tenant: str = "acme", model: str = "chat") -> Sought:
    """A conversation under instructions, then by turns of user and assistant."""
    roles = ("system", *("user", "assistant") * len(texts))
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    found = sought_by({"tenant": tenant, "model": model, "chat": {"messages": messages}})
    assert found is not None
    return found


HOLDS = ReplicaFacts(resident={"chat"}, has_all=True)


@pytest.mark.parametrize("holder", NAMES)
def test_a_job_goes_to_the_replica_that_holds_its_model(holder: str) -> None:
    assert ranked(candidates((3, 3, 3), {holder: HOLDS}), sought())[0] == holder


def test_a_model_that_nobody_holds_goes_to_one_replica_however_its_texts_begin() -> None:
    firsts = {ranked(candidates(), sought(text=f"{n}"))[0] for n in range(20)}
    assert len(firsts) == 1


def test_models_that_nobody_holds_are_spread() -> None:
    firsts = {ranked(candidates(), sought(model=f"m{n}"))[0] for n in range(20)}
    assert firsts == set(NAMES)


@pytest.mark.parametrize("free", NAMES)
def test_a_model_that_nobody_holds_goes_where_a_place_is_free(free: str) -> None:
    full = dict.fromkeys(NAMES, ReplicaFacts(resident={"code"}, has_room=False))
    busy = [3 if name == free else 0 for name in NAMES]
    assert ranked(candidates(busy, {**full, free: ReplicaFacts()}), sought())[0] == free


def test_a_model_that_nobody_holds_goes_to_the_least_busy_where_no_place_is_free() -> None:
    full = dict.fromkeys(NAMES, ReplicaFacts(resident={"code"}, has_room=False))
    assert ranked(candidates((2, 1, 3), full), sought())[0] == "r2"


def test_a_model_that_two_hold_is_asked_of_one_while_they_hold_only_some() -> None:
    some = ReplicaFacts(resident={"chat"}, has_room=False)
    firsts = {
        ranked(candidates(facts={"r1": some, "r2": some}), sought(text=f"{n}"))[0]
        for n in range(20)
    }
    assert len(firsts) == 1


def test_jobs_that_begin_alike_go_to_one_replica_and_others_are_spread() -> None:
    all_hold = dict.fromkeys(NAMES, HOLDS)
    firsts = Counter(ranked(candidates(facts=all_hold), sought(text=f"{n}"))[0] for n in range(300))
    assert min(firsts[name] for name in NAMES) > 60
    assert len({ranked(candidates(facts=all_hold), sought(text="x"))[0] for _ in range(5)}) == 1


def test_a_replica_that_leaves_moves_only_its_own_share() -> None:
    all_hold = dict.fromkeys(NAMES, HOLDS)
    before = candidates(facts=all_hold)
    for n in range(50):
        job = sought(text=f"{n}")
        was, now = ranked(before, job), ranked(before[:2], job)
        if was[0] != "r3":
            assert now[0] == was[0]


def test_a_busy_replica_gets_nothing_by_preference() -> None:
    ranks = ranked(candidates((40, 2, 0), {"r1": HOLDS}), sought())
    assert ranks[-1] == "r1"


def test_a_few_jobs_more_do_not_make_a_replica_busy() -> None:
    assert ranked(candidates((4, 0, 0), {"r1": HOLDS}), sought())[0] == "r1"


def test_a_replica_that_lets_running_ones_end_comes_after_a_busy_one() -> None:
    facts = {"r1": ReplicaFacts(resident={"chat"}, admits=False)}
    assert ranked(candidates((0, 50, 50), facts), sought())[-1] == "r1"


def test_a_job_that_was_accepted_before_goes_to_a_replica_with_its_release() -> None:
    facts = {
        "r1": ReplicaFacts(resident={"chat"}, releases={"new"}),
        "r2": ReplicaFacts(releases={"old", "new"}, admits=False),
        "r3": ReplicaFacts(resident={"chat"}, releases={"new"}),
    }
    assert ranked(candidates(facts=facts), sought(release="old"))[0] == "r2"


def test_what_names_no_model_goes_to_the_least_busy() -> None:
    assert ranked(candidates((5, 1, 3)), None) == ["r2", "r3", "r1"]
    assert sought_by({"tenant": "acme"}) is None


def test_nobody_is_ranked_where_there_is_nobody() -> None:
    assert ranked([], sought()) == []


def test_later_turns_of_a_conversation_begin_as_the_first_did() -> None:
    first = chat("be kind", "hello")
    assert chat("be kind", "hello", "hi!", "and now?") == first
    assert chat("be kind", "good day") != first
    assert chat("be brief", "hello") != first


def test_beginnings_of_other_tenants_and_models_are_others() -> None:
    assert chat("be kind", "hello", tenant="beta").beginning != chat("be kind", "hello").beginning
    assert chat("be kind", "hello", model="code").beginning != chat("be kind", "hello").beginning


def test_content_in_parts_and_tokens_and_odd_text_have_a_beginning() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    jobs: list[dict[str, Any]] = [
        {"model": "m", "chat": {"messages": parts}},
        {"model": "m", "chat": {"messages": [{"role": "assistant", "content": None}]}},
        {"model": "m", "prompts": [b"\1\0\2\0"]},
        {"model": "m", "prompts": ["\ud800"]},
        {"model": "m", "prompts": []},
    ]
    found = [sought_by(job) for job in jobs]
    assert len({one.beginning for one in found if one is not None}) == len(jobs)


def test_facts_travel_as_text_that_does_not_change_by_itself() -> None:
    facts = ReplicaFacts({"b", "a"}, {"r2", "r1"}, admits=False)
    assert facts.tell() == {
        "resident": ["a", "b"],
        "releases": ["r1", "r2"],
        "admits": False,
        "has_all": False,
        "has_room": True,
    }
    assert ReplicaFacts.read(facts.tell()) == facts
    assert ReplicaFacts.read({}) == ReplicaFacts(frozenset(), frozenset())

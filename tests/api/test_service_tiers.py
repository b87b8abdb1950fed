"""How a request asks for a class, and what it hears of it."""

import json
from typing import Any

import pytest

from serve_app.service_class import ServiceClass
from tests.api.fakes import FakeClient
from tests.api.held_keys import HeldKeys
from tests.api.test_access import ANSWER, BODY, KEYS, call, shown


def ask(highest: str | None, **fields: Any) -> tuple[Any, FakeClient]:
    """The answer to a tenant whose highest class this is; None: its entry does not say."""
    tenant = {} if highest is None else {"highest_class": highest}
    client = FakeClient(*ANSWER)
    options = shown("infer", json={**BODY, **fields})
    (answer,) = call(HeldKeys(KEYS, **tenant), ("POST", "/v1/completions", options), client=client)
    return answer, client


@pytest.mark.parametrize(
    ("tier", "highest", "given", "told"),
    [
        (None, None, "standard", "default"),
        ("auto", None, "standard", "default"),
        ("default", None, "standard", "default"),
        ("priority", None, "interactive", "priority"),
        ("fast", None, "interactive", "priority"),
        ("flex", None, "batch", "flex"),
        (None, "standard", "standard", "default"),
        (None, "batch", "batch", "flex"),
        ("auto", "batch", "batch", "flex"),
        ("flex", "batch", "batch", "flex"),
    ],
)
def test_a_request_gets_the_class_that_it_asks_for_and_hears_which_it_was(
    tier: str | None, highest: str | None, given: str, told: str
) -> None:
    answer, client = ask(highest, service_tier=tier)
    assert client.jobs[0]["service_class"] is ServiceClass(given)
    assert answer.json()["service_tier"] == told


@pytest.mark.parametrize(
    ("tier", "highest", "named"),
    [
        ("priority", "standard", "default"),
        ("fast", "batch", "flex"),
        ("default", "batch", "flex"),
    ],
)
def test_a_class_above_the_tenants_highest_is_refused_before_the_engine_hears_of_it(
    tier: str, highest: str, named: str
) -> None:
    answer, client = ask(highest, service_tier=tier)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (403, "permission_error")
    assert (error["code"], error["param"]) == ("insufficient_permissions", "service_tier")
    assert f"'{tier}'" in error["message"]
    assert f"'{named}'" in error["message"]
    assert client.jobs == []


def test_a_tier_that_is_not_known_is_refused_by_name() -> None:
    answer, _ = ask(None, service_tier="turbo")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "service_tier"


def test_each_chunk_of_a_stream_says_the_tier() -> None:
    answer, _ = ask(None, service_tier="flex", stream=True)
    chunks = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert chunks.pop() == "[DONE]"
    assert [json.loads(chunk)["service_tier"] for chunk in chunks] == ["flex"] * len(chunks)

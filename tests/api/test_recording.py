"""The record of each request: who asked, what it took, how it ended. Never what was said."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import httpx
import pytest

from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.protocol.errors import loading, no_such_model, overloaded
from serve_app.tenants.key_text import digest_of, id_of
from serve_app.tenants.usage_record import UsageRecord
from tests.api.fakes import ACCEPTED, FakeClient, piece
from tests.api.held_keys import HeldKeys

BODY = {"model": "news-1", "prompt": "MARKED", "max_tokens": 5}
KEYS: dict[str, dict[str, object]] = {"infer": {}}
ANSWER = [[ACCEPTED], [piece("MARKED", num_cached=2, queued_s=0.5), piece("b", "stop")]]


def recorded(
    client: FakeClient,
    body: dict[str, Any],
    keys: HeldKeys | None = None,
    path: str = "/v1/completions",
) -> UsageRecord:
    """The one record of one request."""
    found: list[UsageRecord] = []

    async def run() -> None:
        held = keys or HeldKeys(KEYS)
        app = build_api(
            Api(client, RequestLimits(), held, record=found.append, clock=lambda: 86400.5)
        )
        transport = httpx.ASGITransport(app=app)
        headers = {"authorization": "Bearer infer", "x-request-id": "mine"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            await http.post(path, json=body, headers=headers)

    asyncio.run(run())
    (one,) = found
    return one


def test_a_client_that_leaves_while_it_sends_is_recorded_as_gone_and_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found: list[UsageRecord] = []
    app = build_api(Api(FakeClient(), RequestLimits(), record=found.append))
    path = "/v1/completions"
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        raise AssertionError(message)

    async def run() -> None:
        await app(scope, receive, send)

    asyncio.run(run())
    assert [one.status for one in found] == [499]
    assert not caplog.records


@pytest.mark.parametrize("stream", [False, True])
def test_an_answered_request_says_what_it_took(stream: bool) -> None:
    one = recorded(FakeClient(*ANSWER), {**BODY, "stream": stream})
    assert (one.tenant, one.key, one.request) == ("acme", id_of(digest_of("infer")), "mine")
    assert (one.time, one.model, one.release) == ("1970-01-02T00:00:00.500+00:00", "news-1", "r1")
    assert (one.prompt_tokens, one.cached_tokens, one.answer_tokens) == (3, 2, 2)
    assert (one.status, one.finish, one.queue_s) == (200, "stop", 0.5)
    assert one.first_token_s is not None
    assert 0 <= one.first_token_s <= one.total_s
    assert "MARKED" not in one.line()
    assert "infer" not in one.line()
    assert UsageRecord.of_line(one.line()) == one


@pytest.mark.parametrize(
    ("body", "tenant", "status"),
    [
        ({**BODY, "max_tokens": -1}, {}, 400),
        (BODY, {"models": ["other"]}, 403),
        (BODY, {"tokens_per_minute": 3}, 200),
        ({"model": "news-1"}, {}, 400),
    ],
)
def test_a_request_is_recorded_with_the_status_it_got(
    body: dict[str, Any], tenant: dict[str, Any], status: int
) -> None:
    assert recorded(FakeClient(*ANSWER), body, HeldKeys(KEYS, **tenant)).status == status


def test_of_a_name_that_no_model_can_have_the_record_keeps_the_beginning() -> None:
    one = recorded(FakeClient([no_such_model("x").to_item()]), {**BODY, "model": "x" * 100_000})
    assert (one.status, one.model) == (404, "x" * 255)


def test_a_message_is_recorded_as_a_chat_is_with_the_status_of_its_own_protocol() -> None:
    body = {"model": "a", "max_tokens": 5, "messages": [{"role": "user", "content": "MARKED"}]}
    one = recorded(FakeClient(*ANSWER), body, path="/v1/messages")
    assert (one.status, one.finish, one.answer_tokens, one.cached_tokens) == (200, "stop", 2, 2)
    refused = FakeClient([overloaded("too many").to_item()])
    assert recorded(refused, body, path="/v1/messages").status == 529


def test_an_answer_that_breaks_off_is_incomplete_and_counts_what_came() -> None:
    client = FakeClient([ACCEPTED], [piece("a"), loading("going").to_item()])
    one = recorded(client, {**BODY, "stream": True})
    assert (one.status, one.finish, one.answer_tokens) == (200, "incomplete", 1)
    client = FakeClient([ACCEPTED], [piece("a"), loading("going").to_item()])
    assert recorded(client, BODY).status == 503


def test_choices_that_end_for_several_reasons_say_all() -> None:
    client = FakeClient([ACCEPTED], [piece("a", "stop"), piece("b", "length", choice=1)])
    assert recorded(client, {**BODY, "n": 2}).finish == "length+stop"

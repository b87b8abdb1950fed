"""However a request ends, its tenant gets back what it did not use, and has it open no longer."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.protocol.errors import internal, loading, overloaded
from serve_app.protocol.messages import Item, Job
from tests.api.fakes import ACCEPTED, FakeClient, piece
from tests.api.held_keys import HeldKeys
from tests.serving.running import until

LIMIT, PROMPT = 20, 3
WHOLE: list[list[Item]] = [[ACCEPTED], [piece("a")], [piece("b", "stop")]]
BROKEN: list[list[Item]] = [[ACCEPTED], [piece("a")], [internal().to_item()]]


class Hanging(FakeClient):
    """Says nothing more after its batches, until it is closed."""

    num_said = 0
    """To so many jobs it has said all, and they have taken it."""

    async def generate(self, job: Job) -> AsyncGenerator[list[Item], None]:
        self.jobs.append(job)
        try:
            for batch in self.batches:
                yield list(batch)
            self.num_said += 1
            await asyncio.Event().wait()
        finally:
            self.num_closed += 1


class Request:
    """One completion over ASGI. of: the client closes its connection when this has said all."""

    def __init__(self, *, stream: bool, of: Hanging | None = None) -> None:
        body = {"model": "m", "prompt": "x", "max_tokens": 5, "stream": stream}
        self._body: bytes | None = json.dumps(body).encode()
        self._of = of
        self._num_before = 0 if of is None else of.num_said
        self.headers: dict[str, str] = {}

    async def receive(self) -> Any:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await until(lambda: self._of is not None and self._of.num_said > self._num_before)
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.headers = {k.decode(): v.decode() for k, v in message["headers"]}

    async def through(self, app: Any, method: str, path: str) -> None:
        key = (b"x-api-key", b"k")
        scope = {"type": "http", "method": method, "path": path, "headers": [key]}
        await app({**scope, "query_string": b"", "root_path": ""}, self.receive, self.send)


WAYS: dict[str, tuple[FakeClient, int]] = {
    "answered": (FakeClient(*WHOLE), PROMPT + 2),
    "refused by the engine": (FakeClient([overloaded("full").to_item()]), 0),
    "the engine cannot be reached": (FakeClient(raises=loading("away")), 0),
    "broken in the middle": (FakeClient(*BROKEN), PROMPT + 1),
    "ended too early": (FakeClient(*WHOLE[:2]), PROMPT + 1),
    "never accepted, and the client leaves": (Hanging(), 0),
    "the client leaves in the middle": (Hanging(*WHOLE[:2]), PROMPT + 1),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_not_used_is_given_back_however_a_request_ends(way: str, stream: bool) -> None:
    client, used = WAYS[way]
    leaves = client if isinstance(client, Hanging) else None
    keys = HeldKeys({"k": {}}, tokens_per_minute=LIMIT, concurrent_requests=1)

    async def run() -> None:
        app = build_api(Api(client, RequestLimits(), keys))
        before = client.num_closed
        request = Request(stream=stream, of=leaves)
        await request.through(app, "POST", "/v1/completions")
        assert client.num_closed == before + 1
        after = Request(stream=False)
        await after.through(app, "GET", "/version")
        assert int(after.headers["x-ratelimit-remaining-tokens"]) == LIMIT - used
        again = Request(stream=False, of=leaves)
        await again.through(app, "POST", "/v1/completions")
        assert client.num_closed == before + 2  # it was let in

    asyncio.run(run())


def test_a_request_that_is_cancelled_gives_back_what_it_reserved() -> None:
    client = Hanging(*WHOLE[:1])
    keys = HeldKeys({"k": {}}, tokens_per_minute=LIMIT, concurrent_requests=1)

    async def run() -> None:
        app = build_api(Api(client, RequestLimits(), keys))
        asked = asyncio.create_task(Request(stream=False).through(app, "POST", "/v1/completions"))
        await until(lambda: client.num_said > 0)
        asked.cancel()
        await asyncio.wait({asked})
        after = Request(stream=False)
        await after.through(app, "GET", "/version")
        assert int(after.headers["x-ratelimit-remaining-tokens"]) == LIMIT - PROMPT

    asyncio.run(run())

"""Clients that leave: what they asked for stops, and its pages return."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from serve_app.api.requests.fields import CompletionFields
from serve_app.api.requests.jobs import completion_job
from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.tenants.keyring import ANYBODY
from tests.serving.fakes import CONFIG, TOKENIZER, world
from tests.serving.running import replica_of, serves, until

ANSWER = TOKENIZER.encode("jolly wolf")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_ends_its_sequences(stream: bool, n: int) -> None:
    async def run() -> None:
        made = world(answers={"a": ANSWER}, manual=True)
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            app = build_api(Api(replica, CONFIG.limits))
            left = asyncio.Event()
            asking = asyncio.create_task(_request(app, _body(n, stream), left))
            await until(lambda: len(made.loop.seen) == n)
            made.loop.step()
            assert made.loop.pages == 64 - n
            left.set()
            await asking
            await until(lambda: made.loop.pages == 64)
            assert len(made.loop.aborted) == n
            assert replica._open.choices.total == 0

    asyncio.run(run())


def test_a_client_that_leaves_while_it_waits_for_a_release_is_forgotten() -> None:
    async def run() -> None:
        made = world()
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            replica._releases._admitting.clear()
            left = asyncio.Event()
            app = build_api(Api(replica, CONFIG.limits))
            asking = asyncio.create_task(_request(app, _body(2, True), left))
            await until(lambda: replica._open.choices.total == 2)
            left.set()
            await asking
            assert replica._open.choices.total == 0
            assert made.loop.seen == []

    asyncio.run(run())


def test_a_job_that_is_closed_is_aborted() -> None:
    async def run() -> None:
        made = world(answers={"a": ANSWER}, manual=True)
        fields = CompletionFields.model_validate({"model": "a", "prompt": "the", "n": 2})
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            job = completion_job(fields, RequestLimits(), job="j", caller=ANYBODY)
            async with aclosing(replica.generate(job)) as items:
                async for batch in items:
                    assert batch[0]["type"] == "accepted"
                    break
            assert made.loop.aborted == ["j-0", "j-1"]

    asyncio.run(run())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("turns", range(0, 24, 2))
def test_a_task_that_is_cancelled_at_any_moment_is_aborted(turns: int, stream: bool) -> None:
    async def run() -> None:
        made = world(manual=True)
        async with replica_of(made) as replica:
            await serves(replica, "r1")
            app = build_api(Api(replica, CONFIG.limits))
            task = asyncio.create_task(_request(app, _body(2, stream), asyncio.Event()))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert made.loop.pages == 64
            assert replica._open.choices.total == 0

    asyncio.run(run())


def _body(n: int, stream: bool) -> bytes:
    flag = "true" if stream else "false"
    return f'{{"model":"a","prompt":"the","max_tokens":50,"n":{n},"stream":{flag}}}'.encode()


async def _request(app: Any, body: bytes, left: asyncio.Event) -> None:
    """One ASGI request whose client leaves when `left` is set."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "root_path": "",
    }
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        return None

    await app(scope, receive, send)

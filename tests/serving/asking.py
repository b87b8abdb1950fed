"""One request over HTTP to a replica on a fake engine, and what came back, checked for its form."""

import asyncio
import json
from typing import Any

import httpx

from serve_app.config import ServeConfig
from tests.serving.fakes import EOS, TOKENIZER, World, source, world
from tests.serving.running import client_of, replica_of, serves
from tests.text.tokenizers import byte_level

HELLO = TOKENIZER.encode("jolly wolf")
CHAT: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}


def ask(path: str, body: dict[str, Any], made: World | None = None, **config: Any) -> Any:
    """The response to one request, of a replica of its own."""

    async def run() -> httpx.Response:
        settings = ServeConfig(family="fam", poll_s=0.02, **config)
        async with (
            replica_of(made or world(answers={"a": HELLO}), settings) as replica,
            client_of(replica, settings) as client,
        ):
            await serves(replica, "r1")
            return await client.post(path, json=body)

    return asyncio.run(run())


def complete(body: dict[str, Any], made: World | None = None, **config: Any) -> Any:
    """The body of a completion that must succeed."""
    response = ask("/v1/completions", {"model": "a", "prompt": "the", **body}, made, **config)
    assert response.status_code == 200, response.text
    return response.json()


def said(response: httpx.Response) -> list[Any]:
    """What a stream said, in order; `[DONE]` as it is."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    texts = [line.removeprefix("data: ") for line in lines]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def chatty(**generation: Any) -> World:
    """A model that has a chat template, with a variable `mood`, and answers "jolly wolf"."""
    inner = byte_level()
    inner.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{{ mood }}"
    )
    made = world(answers={"a": [*HELLO, EOS]})
    made.registry.tokenizer = inner
    made.registry.releases["r1"] = source("r1", "a", **generation)
    return made


def refused(response: Any, status: int, code: str | None, param: str | None) -> str:
    """The message of a refusal that must be of OpenAI's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param), error
    return str(error["message"])

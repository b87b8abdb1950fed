"""An endpoint with a model of each format of answers, on a fake engine, and the openai client."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import httpx2
import openai

from serve_app.api.routes import Api, build_api
from serve_app.config import ServeConfig
from serve_app.text.answers.finding import known_formats
from serve_app.text.tokenizer import Tokenizer
from tests.serving.fakes import EOS, World, world
from tests.serving.running import replica_of, serves
from tests.text.answers.samples import TOOLS
from tests.text.tokenizers import byte_level, writing

CONFIG = ServeConfig(family="fam", poll_s=0.02)
FORMS = [name for name, form in known_formats().items() if form.has_calls]
MODELS = (*FORMS, "think")
OFFERED: Any = [
    {"type": "function", "function": {"name": name, "description": "d", "parameters": schema}}
    for name, schema in TOOLS.items()
]
USER: Any = {"role": "user", "content": "hi"}
RUN = '<tool_call>\n{"name": "run", "arguments": {"a": 1}}\n</tool_call>'


@cache
def _inner(model: str) -> Any:
    if model in MODELS:
        return writing(model)
    plain = byte_level()
    plain.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return plain


@cache
def _tokenizer(model: str) -> Tokenizer:
    return Tokenizer(_inner(model))


class Asked:
    """An endpoint with a model of each format, and `plain`, which has none. http: for clients."""

    def __init__(self, made: World, http: httpx2.AsyncClient, client: openai.AsyncOpenAI) -> None:
        self.made = made
        self.http = http
        self.client = client

    async def whole(self, model: str, answer: str, **fields: Any) -> Any:
        self.will_answer(model, answer)
        return await self.client.chat.completions.create(
            **{"model": model, "messages": [USER], **fields}
        )

    async def stream(self, model: str, answer: str, **fields: Any) -> list[Any]:
        self.will_answer(model, answer)
        asked = {"model": model, "messages": [USER], **fields}
        stream = await self.client.chat.completions.create(**asked, stream=True)
        return [chunk async for chunk in stream]

    def prompt(self) -> str:
        """What the model was given last."""
        request = self.made.loop.seen[-1]
        return self.tokenizer(request.model).decode(request.prompt, skip_special=False)

    @staticmethod
    def tokenizer(model: str) -> Tokenizer:
        return _tokenizer(model)

    def will_answer(self, model: str, answer: str) -> None:
        """The next answer of the model, and those after it."""
        tokens = self.tokenizer(model).encode(answer, special=False)
        self.made.loop.answers[model] = [*tokens, EOS]


@asynccontextmanager
async def formats_endpoint() -> AsyncIterator[Asked]:
    made = world(*MODELS, "plain", answers={"plain": [EOS]}, kv_tokens=9000, context=9000)
    made.registry.tokenizer = _inner("plain")
    made.registry.tokenizers = {name: _inner(name) for name in MODELS}
    async with replica_of(made, CONFIG) as replica:
        await serves(replica, "r1")
        transport = httpx2.ASGITransport(app=build_api(Api(replica, CONFIG.limits)))
        async with (
            httpx2.AsyncClient(transport=transport) as http,
            openai.AsyncOpenAI(
                base_url="http://test/v1", api_key="none", max_retries=0, http_client=http
            ) as client,
        ):
            yield Asked(made, http, client)


def on_formats(test: Callable[[Asked], Awaitable[None]]) -> None:
    async def run() -> None:
        async with formats_endpoint() as asked:
            await test(asked)

    asyncio.run(run())

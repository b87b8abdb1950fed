"""Chat templates are programs of strangers: what they do touches their own request alone."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.processes import descendants
from serve_app.text.errors import TextError
from serve_app.text.process.text_client import TextClient
from serve_app.text.process.text_process import TextProcess
from serve_app.text.template_limits import TemplateLimits
from tests.serving.running import until
from tests.text.process.choices import chat
from tests.text.tokenizers import byte_level

LIMITS = TemplateLimits(seconds=0.3, memory=32 * 2**20)
GOOD = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}"
BAD = {
    "forever": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "did not end within 0.3 s",
    ),
    "one endless call": ("{{ 9 ** (9 ** 9) }}", "did not end within 0.3 s"),
    "much text": ("{{ 'abcdefgh' * 40000000 }}", "needs more than 33554432 bytes of memory"),
    "much memory": (
        "{% set n = namespace(x='a') %}{% for i in range(99999) %}{% set n.x = n.x + n.x %}"
        "{% endfor %}",
        "needs more than 33554432 bytes of memory",
    ),
    "long text": (
        f"{{% for i in range(90000) %}}{'x' * 100}{{% endfor %}}",
        "writes 9000000 characters, of at most 8388608",
    ),
    "recursion": ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
    "zero": ("{{ 1 // 0 }}", "ZeroDivisionError"),
    "refusal": ("{{ raise_exception('no such roles') }}", "no such roles"),
    "no template": ("{% for %}", "TemplateSyntaxError"),
    "no text": (17, "TypeError"),
    "none is the default": ({"a": "x", "b": "y"}, "no default"),
    "secrets": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
}
MODELS = {"good": GOOD, **{name: template for name, (template, _) in BAD.items()}}
ASKED = [{"role": "user", "content": "the quick brown fox"}]
TOKENS = byte_level()("<s>the quick brown fox", add_special_tokens=False)["input_ids"]


def _write(name: str, directory: Path) -> None:
    inner = byte_level()
    inner.chat_template = MODELS[name]
    inner.save_pretrained(directory)


def _run(test: Callable[[TextClient, list[TextProcess]], Awaitable[None]]) -> None:
    async def run() -> None:
        processes: list[TextProcess] = []

        async def start(directory: str, hear: Any) -> TextProcess:
            processes.append(await TextProcess.start(directory, hear, LIMITS))
            return processes[-1]

        client = TextClient(start)
        client.begin()
        try:
            async with asyncio.timeout(60):
                await client.load("r1", list(MODELS), _write)
                await test(client, processes)
        finally:
            await client.aclose()

    asyncio.run(run())


async def _chat(client: TextClient, model: str) -> list[int]:
    tokens, _ = await client.encode_chat(("r1", model), chat(ASKED), most=99)
    return tokens


def test_a_template_that_breaks_a_limit_is_refused_by_name_and_holds_up_nobody() -> None:
    async def test(client: TextClient, processes: list[TextProcess]) -> None:
        async def refused(model: str) -> str:
            with pytest.raises(TextError) as caught:
                await _chat(client, model)
            return str(caught.value)

        assert await _chat(client, "good") == TOKENS
        running = asyncio.gather(*map(refused, BAD))
        waits = []
        while not running.done():
            begun = time.monotonic()
            assert await _chat(client, "good") == TOKENS
            assert await client.encode(("r1", "good"), ["<s>"], most=99) == [[1]]
            waits.append(time.monotonic() - begun)
        for said, (name, (_, why)) in zip(await running, BAD.items(), strict=True):
            assert said.startswith(f"the chat template of model '{name}'")
            assert why in said
        assert len(waits) > 10
        assert sorted(waits)[len(waits) // 2] < LIMITS.seconds / 3
        assert client.num_restarts == 0
        await until(lambda: len(descendants(processes[0].id)) <= 1 + 4)  # the idle ones stay

    _run(test)


def test_a_worker_or_all_of_them_may_be_killed_and_chats_are_answered() -> None:
    async def test(client: TextClient, processes: list[TextProcess]) -> None:
        assert await _chat(client, "good") == TOKENS
        forking, *workers = descendants(processes[0].id)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        assert await _chat(client, "good") == TOKENS
        assert client.num_restarts == 0
        for process in descendants(processes[0].id):
            os.kill(process, signal.SIGKILL)
        assert await _chat(client, "good") == TOKENS
        assert client.num_restarts == 1
        await until(lambda: not descendants(forking))

    before = set(descendants(os.getpid()))  # other tests may have left helpers of Python's own
    _run(test)
    assert not set(descendants(os.getpid())) - before

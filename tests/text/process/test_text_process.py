"""The text process as a real process: what it loads, how it ends, and what is lost when it does."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from serve_app.text.process.text_client import TextClient
from serve_app.text.process.text_messages import Answer, empty_turn
from serve_app.text.process.text_process import Hear, TextProcess
from tests.serving.running import until
from tests.text.process.choices import RELEASE, Told, tokenizer, wanted, write

TOKENS = tokenizer("bytes").encode("the quick brown fox")
BYTES = (RELEASE, "bytes")


class Processes:
    """Starts processes, and knows their ids."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    async def start(self, directory: str, hear: Hear) -> TextProcess:
        process = await TextProcess.start(directory, hear)
        self.ids.append(process.id)
        return process


def _run(test: Callable[[TextClient, Processes], Awaitable[None]]) -> None:
    async def run() -> None:
        processes = Processes()
        client = TextClient(processes.start)
        client.begin()
        try:
            async with asyncio.timeout(60):
                await client.load(RELEASE, ["bytes"], write)
                await test(client, processes)
        finally:
            await client.aclose()
        assert not any(map(_lives, processes.ids))

    asyncio.run(run())


def _lives(process: int) -> bool:
    try:
        return _of_process(process, "stat").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _of_process(process: int, file: str) -> str:
    return Path(f"/proc/{process}/{file}").read_text()


def test_the_process_has_neither_torch_nor_ray_nor_an_engine_and_is_small() -> None:
    async def test(_: TextClient, processes: Processes) -> None:
        maps = _of_process(processes.ids[0], "maps")
        assert "tokenizers" in maps
        assert "libtorch" not in maps
        assert "/ray/" not in maps
        status = _of_process(processes.ids[0], "status")
        assert int(status.split("VmRSS:")[1].split()[0]) < 150_000, "kB"

    _run(test)


def test_a_text_that_is_cut_by_the_end_of_its_process_is_whole() -> None:
    told = Told("bytes", TOKENS, TOKENS * 5, wanted(stop=["fox the", "foxthe quick brown"]))
    received: list[Any] = []

    async def test(client: TextClient, processes: Processes) -> None:
        key = client.open(BYTES, 0, told.prompt, told.wanted, received.append)
        for place, event in enumerate(told.events()):
            client.add(key, *event)
            await asyncio.sleep(0.002)
            if place == len(TOKENS):  # of a stop string, the first part has come
                os.kill(processes.ids[0], signal.SIGKILL)
        assert await client.encode(BYTES, ["the quick brown fox"], most=99) == [TOKENS]
        await until(lambda: received[-1]["finish"] is not None)
        assert len(processes.ids) == 2

    _run(test)
    assert received == told.expected(0)
    assert received[-1]["finish"] == "stop"


def test_a_long_text_does_not_hold_up_a_stream_and_short_texts() -> None:
    """A stream that waits for all of them would need as long as they do."""

    async def test(client: TextClient, _: Processes) -> None:
        heard = asyncio.Event()
        key = client.open(BYTES, 0, TOKENS, wanted(), lambda _: heard.set())
        long = "the quick brown fox jumps over the lazy dog " * 10_000
        encoding = asyncio.create_task(client.encode(BYTES, [long], most=10**6))
        num = 0
        while not encoding.done():
            heard.clear()
            client.add(key, TOKENS[num % len(TOKENS)], None, None)
            await heard.wait()
            assert await client.encode(BYTES, ["the quick brown fox"], most=99) == [TOKENS]
            num += 1
        assert num > 5
        assert len((await encoding)[0]) > 50_000

    _run(test)


def test_the_process_ends_when_its_parent_is_killed() -> None:
    code = """
import asyncio, os, signal, tempfile
from serve_app.text.process.text_process import TextProcess
async def run():
    place = tempfile.mkdtemp()
    process = await TextProcess.start(place, lambda _: None)
    print(process.id, place, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(run())
"""
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    process, place = done.stdout.split()
    deadline = time.monotonic() + 30
    while _lives(int(process)) or Path(place).exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_release_that_cannot_be_read_again_ends_the_process() -> None:
    async def run() -> str:
        answers: list[Answer] = []
        with tempfile.TemporaryDirectory() as place:
            process = await TextProcess.start(place, answers.append)
            files: Any = {"directories": {"bytes": f"{place}/none"}, "response_template": None}
            process.send({**empty_turn(), "releases": {RELEASE: files}})
            end = await process.ended()
        assert answers == []
        return end

    assert asyncio.run(run()) == "exit status 1"

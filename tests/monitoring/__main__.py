"""What metrics and logs cost a token: `python -m tests.monitoring`. Processor time, in turn.

Two replicas are asked, without HTTP's sockets and without Ray, so the share is larger than that of
an endpoint. One computes with a real engine, on a family so small that a token of a larger one
costs more; the text process, which neither counts nor logs, is left out. The other has its answers
already, which leaves only what is around a forward pass. With metrics and logs, each token is
counted, each request leaves its two lines of JSON in a file, sums go to a stand-in for Ray's
metrics, and the page of metrics is made once a second.
"""

import asyncio
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from serve_app.config import ServeConfig
from serve_app.engine.config import EngineConfig
from serve_app.logs.log_writing import OURS, write_lines
from serve_app.serving.assembly import real_parts
from serve_app.serving.metrics import counting
from serve_app.serving.metrics.metrics_pages import page
from serve_app.serving.metrics.ray_sums import LABELS
from serve_app.serving.replica.neighbours import Alone
from serve_app.serving.replica.replica import EngineReplica
from serve_app.text.process.text_client import TextClient
from serve_app.text.process.text_process import TextProcess
from tests.serving.fakes import world
from tests.serving.family import FAMILY, TinyFamily
from tests.serving.running import client_of, replica_of, serves

PAIRS, STREAMS, TOKENS, ROUNDS = 10, 16, 100, 4
Made = Callable[[], AbstractAsyncContextManager[EngineReplica]]


class _Nothing:
    """Counts nothing."""

    num_prompt = num_generated = 0

    def __init__(self, *_: Any) -> None:
        pass

    def accepted(self, *_: Any) -> None:
        pass

    token = finished = ended = accepted


@asynccontextmanager
async def _with_answers() -> AsyncIterator[EngineReplica]:
    async with replica_of(world("a", answers={"a": [10, 11, 12, 13]})) as replica:
        await serves(replica, "r1")
        yield replica


@asynccontextmanager
async def _computing(family: TinyFamily) -> AsyncIterator[EngineReplica]:
    config = ServeConfig(
        registry=family.url,
        family=FAMILY,
        engine=EngineConfig(device="cpu", kv_tokens=4096, max_sequences=STREAMS),
    )
    text = TextClient(TextProcess.start)
    text.begin()
    replica = EngineReplica(config, real_parts(config, text, Alone()))
    try:
        await replica.reconfigure({"channel": "stable"})
        await replica.until_serving()
        yield replica
    finally:
        await replica.aclose()


async def _tell(replica: EngineReplica) -> None:
    """What is read of the metrics, as often as a scrape and Ray read it."""
    while True:
        page(replica.view.families())
        replica.view.figures(LABELS)
        await asyncio.sleep(1.0)


async def _seconds(made: Made, is_on: bool) -> float:
    """Processor seconds of a token."""
    async with made() as replica, client_of(replica) as client:
        telling = asyncio.create_task(_tell(replica)) if is_on else None
        body = {"model": "a", "prompt": "the", "max_tokens": TOKENS, "stream": True}

        async def ask() -> None:
            answer = await client.post("/v1/completions", json={**body, "ignore_eos": True})
            assert answer.text.rstrip().endswith("[DONE]"), answer.text

        await asyncio.gather(*(ask() for _ in range(STREAMS)))
        begun = time.process_time()
        for _ in range(ROUNDS):
            await asyncio.gather(*(ask() for _ in range(STREAMS)))
        spent = time.process_time() - begun
        if telling is not None:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling
    return spent / (ROUNDS * STREAMS * TOKENS)


def _compare(name: str, made: Made) -> None:
    log = logging.getLogger(OURS)
    ratios, ons, offs = [], [], []
    for _ in range(PAIRS):
        log.setLevel(logging.INFO)
        on = asyncio.run(_seconds(made, True))
        log.setLevel(logging.ERROR)
        with patch.object(counting, "RequestMetrics", _Nothing):
            off = asyncio.run(_seconds(made, False))
        ratios.append(on / off)
        ons.append(on)
        offs.append(off)
        print(f"{name}: on {on * 1e6:.1f} µs, off {off * 1e6:.1f} µs, on ÷ off {on / off:.3f}")
    middle, token = statistics.median(ratios), statistics.median(ons) * 1e6
    print(f"{name}: median of {PAIRS} pairs {middle:.3f}, a token {token:.1f} µs")
    # Others on the machine make processor time longer, and never shorter.
    least, least_off = min(ons) * 1e6, min(offs) * 1e6
    print(f"{name}: the least of each {least:.1f} and {least_off:.1f} µs, {least / least_off:.3f}")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "log").open("w") as file:
        family = TinyFamily(Path(directory))
        family.make_models(("a",))
        family.publish(("a",), "stable")
        with patch.object(sys, "stderr", file):
            write_lines("both", "info", "json")
        _compare("a real engine", lambda: _computing(family))
        _compare("answers known before", _with_answers)
        num_lines = Path(file.name).read_text(encoding="utf-8").count("\n")
    print(f"{num_lines} lines of the log")


if __name__ == "__main__":  # the text process imports this file, too
    main()

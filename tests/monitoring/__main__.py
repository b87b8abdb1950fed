"""What metrics and logs cost a token: `python -m tests.monitoring`. Processor time, in turn.

Everything of a request is there but HTTP's sockets, Ray and the forward pass: streams of one
application on a replica whose engine has its answers already. So the share is larger than that of a
real endpoint. With them, each token is counted, each request leaves its two lines of JSON in a
file, sums go to a stand-in for Ray's metrics, and the page of metrics is made once a second.
"""

import asyncio
import logging
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from serve_app.logs.log_writing import OURS, write_lines
from serve_app.serving.metrics import counting
from serve_app.serving.metrics.metrics_pages import page
from serve_app.serving.metrics.ray_sums import LABELS
from serve_app.serving.replica.replica import EngineReplica
from tests.serving.fakes import world
from tests.serving.running import client_of, replica_of, serves

PAIRS, STREAMS, TOKENS, ROUNDS = 10, 16, 100, 4


class _Nothing:
    """Counts nothing."""

    num_prompt = num_generated = 0

    def __init__(self, *_: Any) -> None:
        pass

    def accepted(self, *_: Any) -> None:
        pass

    token = finished = ended = accepted


async def _tell(replica: EngineReplica) -> None:
    """What is read of the metrics, as often as a scrape and Ray read it."""
    while True:
        page(replica.view.families())
        replica.view.figures(LABELS)
        await asyncio.sleep(1.0)


async def _seconds(is_on: bool) -> float:
    """Processor seconds of a token."""
    made = world("a", answers={"a": [10, 11, 12, 13]})
    async with replica_of(made) as replica, client_of(replica) as client:
        await serves(replica, "r1")
        telling = asyncio.create_task(_tell(replica)) if is_on else None
        body = {"model": "a", "prompt": "the", "max_tokens": TOKENS, "stream": True}

        async def ask() -> None:
            answer = await client.post("/v1/completions", json=body)
            assert answer.text.rstrip().endswith("[DONE]")

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


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "log").open("w") as file:
        with patch.object(sys, "stderr", file):
            write_lines("both", "info", "json")
        log = logging.getLogger(OURS)
        ratios, ons, offs = [], [], []
        for _ in range(PAIRS):
            log.setLevel(logging.INFO)
            on = asyncio.run(_seconds(True))
            log.setLevel(logging.ERROR)
            with patch.object(counting, "RequestMetrics", _Nothing):
                off = asyncio.run(_seconds(False))
            ratios.append(on / off)
            ons.append(on)
            offs.append(off)
            print(f"on {on * 1e6:.1f} µs, off {off * 1e6:.1f} µs, on ÷ off {on / off:.3f}")
        num_lines = Path(file.name).read_text(encoding="utf-8").count("\n")
    middle, token = statistics.median(ratios), statistics.median(ons) * 1e6
    print(f"median of {PAIRS} pairs {middle:.3f}, a token {token:.1f} µs, {num_lines} lines")
    # Others on the machine make processor time longer, and never shorter.
    least, least_off = min(ons) * 1e6, min(offs) * 1e6
    print(f"the least of each: {least:.1f} and {least_off:.1f} µs, {least / least_off:.3f}")


main()

"""Measures the processor time that each process of an endpoint takes for a streamed token.

What a process takes without requests is measured first, and subtracted.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from serve_app.bench.arms.answering import opened
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.process import ArmProcess, answer_all
from serve_app.bench.http.local_endpoint import Kept, endpoint_of, published
from serve_app.bench.http.processor_time import CLIENT, ENGINE, own_tree, processor_s
from serve_app.bench.requests.outcomes import numbers
from serve_app.bench.requests.workload import Asked, TimedJob, Workload
from serve_app.bench.result.environment import environment
from serve_app.bench.result.measured import OnProgress
from serve_app.bench.result.result import Result
from serve_app.errors import EngineError

DRAIN_S = 300.0
IDLE_S = 5.0
SETTLE_S = 1.0
"""How long what follows an answer may take, such as reports to Ray."""
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Asking:
    """What is asked, and for how long the endpoint is watched.

    idle_s: seconds without requests.   rounds: how often all streams are asked, after one round
    that does not count.
    """

    asked: tuple[Asked, ...]
    workload: Workload
    idle_s: float = IDLE_S
    rounds: int = ROUNDS


@dataclass(frozen=True, slots=True)
class Watched:
    """The processor time that each part of the endpoint took while it was watched, in seconds."""

    seconds: float
    taken: Mapping[str, float]

    def us_per_token(self, tokens: int, idle: "Watched") -> dict[str, float]:
        """Microseconds for each token, without what the part takes anyway; never less than 0."""
        own = {
            part: taken - idle.taken.get(part, 0.0) / idle.seconds * self.seconds
            for part, taken in self.taken.items()
        }
        return {part: max(0.0, 1e6 * taken / tokens) for part, taken in own.items()}


@dataclass(frozen=True, slots=True)
class Streamed:
    """What was streamed while the endpoint was watched."""

    streams: int
    tokens: int
    watched: Watched

    def to_json(self, idle: Watched) -> dict[str, Any]:
        """The row of a result. Outside: all processes but the engine's and the client's."""
        us = self.watched.us_per_token(self.tokens, idle)
        return {
            "streams": self.streams,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens / self.watched.seconds,
            "us_per_token": us,
            "outside_us_per_token": sum(
                taken for part, taken in us.items() if part not in (ENGINE, CLIENT)
            ),
        }


def measure_http(
    ground: Ground,
    asking: Asking,
    streams: Sequence[int],
    settings: Mapping[str, Any],
    on_progress: OnProgress = lambda *_: None,
) -> Result:
    """All of `bench http`. Raises: see `costs`."""
    here = environment("cpu")
    rows, idle = costs(ground, asking, streams, on_progress)
    ms = {part: 1e3 * taken / idle.seconds for part, taken in idle.taken.items()}
    return Result("http", here, settings, rows, {"idle_ms_per_s": ms}, "streams")


def costs(
    ground: Ground,
    asking: Asking,
    streams: Sequence[int],
    on_progress: OnProgress,
    kept: Kept | None = None,
) -> tuple[list[dict[str, Any]], Watched]:
    """A row for each number of streams, and the endpoint without requests.

    That is watched last, when what only happens after a start is over.   kept: its tenants.
    Raises: EngineError if the endpoint does not get ready, or a request is lost.
    """
    with published(ground) as ready, endpoint_of(ready, kept) as spec, opened(spec) as (client,):
        found = [_streamed(client, asking, number, on_progress) for number in streams]
        on_progress("idle", 0, 1)
        time.sleep(SETTLE_S)
        with _watch(client) as told:
            time.sleep(asking.idle_s)
        on_progress("idle", 1, 1)
    (idle,) = told
    return [one.to_json(idle) for one in found], idle


def _streamed(
    client: ArmProcess, asking: Asking, streams: int, on_progress: OnProgress
) -> Streamed:
    stage, rounds = f"{streams} streams", asking.rounds + 1
    on_progress(stage, 0, rounds)
    _round(client, _jobs(asking, streams, 0))
    tokens = 0
    with _watch(client) as told:
        for number in range(1, rounds):
            on_progress(stage, number, rounds)
            tokens += _round(client, _jobs(asking, streams, number))
    on_progress(stage, rounds, rounds)
    (watched,) = told
    return Streamed(streams, tokens, watched)


def _jobs(asking: Asking, streams: int, number: int) -> Sequence[TimedJob]:
    """Other prompts in each round, so that none is cached."""
    workload = replace(asking.workload, seed=asking.workload.seed + number)
    return workload.jobs(workload.backlog(streams), asking.asked).jobs


def _round(client: ArmProcess, jobs: Sequence[TimedJob]) -> int:
    """How many tokens were streamed. Raises: EngineError if a request is lost."""
    (answered,) = answer_all([client], jobs, drain_s=DRAIN_S)
    told = numbers(answered.run.outcomes)
    if told["lost"]:
        raise EngineError(f"the endpoint lost {told['lost']} of {len(jobs)} requests")
    return sum(outcome.num_tokens for outcome in answered.run.outcomes)


@contextmanager
def _watch(client: ArmProcess) -> Iterator[list[Watched]]:
    """The list gets what was taken during the block, when it ends.

    Leaves out processes that begin or end meanwhile.
    """
    told: list[Watched] = []
    part_of = own_tree(client.pid)
    before, began = processor_s(part_of), time.monotonic()
    yield told
    after, seconds = processor_s(part_of), time.monotonic() - began
    taken: dict[str, float] = defaultdict(float)
    for pid in before.keys() & after.keys():
        taken[part_of[pid]] += after[pid] - before[pid]
    told.append(Watched(seconds, dict(taken)))

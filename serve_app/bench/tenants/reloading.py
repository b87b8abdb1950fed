"""Measures a reload under load: a channel moves to a release that changes one model of several."""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from consolidation.release import Registry
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.endpoint import HttpSpec
from serve_app.bench.arms.weight_specs import PublishedSpec, RandomSpec
from serve_app.bench.http.local_endpoint import endpoint_of
from serve_app.bench.http.processor_time import ENGINE, PROC, own_tree
from serve_app.bench.http.publishing import publish
from serve_app.bench.requests.workload import Asked, Lengths, TimedJob, Workload
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.tenants.reload_figures import Reload, own_bytes
from serve_app.bench.tenants.reload_streams import Streams
from serve_app.bench.weights.one_changed import OneChanged
from serve_app.errors import EngineError

CHANNEL = "stable"
STREAMS_A_MODEL = 2
PROMPT, ANSWER = Lengths(16, 16), Lengths(24, 48)
WARM_S, BEFORE_S = 2.0, 6.0
"""How long the streams run until gaps count, and from then until the channel moves."""
AFTER_S = 2.0
"""How long they go on when the next release answers every question: the old one leaves then."""
WITHIN_S = 60.0
"""How long the next release may take until it answers every question."""
_STAGE, _STEPS = "reload", 4


def reloading(
    ground: Ground,
    asked: Sequence[Asked],
    *,
    before_s: float = BEFORE_S,
    on_progress: OnProgress = lambda *_: None,
) -> Mapping[str, Measured]:
    """Answers lost or wrong; the worst gap of a stream while the next release comes ÷ the median
    gap before; bytes that the engine's process reads meanwhile ÷ those of the files that only the
    next release has. That one changes the last model.

    Two streams of each model ask greedily, again and again. An answer is right if it is what the
    release that it names answers when nothing else runs.
    ground: of random weights, each model's its own.   before_s: how long gaps count before.
    Raises: EngineError if the endpoint does not get ready, or the next release does not answer
    every question in time; OSError without /proc.
    """
    on_progress(_STAGE, 0, _STEPS)
    with tempfile.TemporaryDirectory(prefix="expertpool-bench-") as place:
        registry = Registry(place, "bench")
        first, following = _two_releases(ground, registry, asked[-1].name)
        registry.move_channel(CHANNEL, first)
        source = PublishedSpec(place, registry.family, first)
        on_progress(_STAGE, 1, _STEPS)
        with _streams(replace(ground, source=source), _questions(asked)) as streams:
            alone = streams.in_turn()
            on_progress(_STAGE, 2, _STEPS)
            streams.begin()
            time.sleep(WARM_S)
            engine = [pid for pid, part in own_tree(os.getpid()).items() if part == ENGINE]
            began = time.monotonic()
            time.sleep(before_s)
            read, moved = _bytes_read(engine), time.monotonic()
            registry.move_channel(CHANNEL, following)
            _wait_for(streams, following)
            taken = time.monotonic()
            time.sleep(AFTER_S)
            read, ended = _bytes_read(engine) - read, time.monotonic()
            streams.end()
            on_progress(_STAGE, 3, _STEPS)
            alone += streams.in_turn()
        own = own_bytes(registry.read_manifest(following), registry.read_manifest(first))
    on_progress(_STAGE, _STEPS, _STEPS)
    found = Reload(streams.heard, alone, began, moved, ended)
    facts = found.facts() | {"seconds": taken - moved}
    return {
        "reload_lost_or_wrong": Measured(found.num_lost + found.num_wrong, facts),
        "reload_gap_over_median": Measured(found.worst_gap / found.median_gap_before, facts),
        "reload_read_over_share": Measured(read / own, {"bytes_read": read, "own_bytes": own}),
    }


def _two_releases(ground: Ground, registry: Registry, changed: str) -> tuple[str, str]:
    """Their ids. The second has other weights for one model, in its backbone and its experts."""
    spec = ground.source
    assert isinstance(spec, RandomSpec)
    assert not spec.merged, "each model has weights of its own"
    first = spec.open()
    following = OneChanged(first, replace(spec, seed=spec.seed + 1).open(), changed)
    return publish(first, registry), publish(following, registry)


def _questions(asked: Sequence[Asked]) -> list[TimedJob]:
    """Prompts and lengths differ, so that the streams do not begin and end together."""
    return [
        job
        for number, one in enumerate(asked)
        for workload in [Workload(PROMPT, ANSWER, skew=0.0, seed=number)]
        for job in workload.jobs(workload.backlog(STREAMS_A_MODEL), [one]).jobs
    ]


@contextmanager
def _streams(ground: Ground, questions: Sequence[TimedJob]) -> Iterator[Streams]:
    """Of an endpoint that follows the channel; both end with the block."""
    with endpoint_of(ground, channel=CHANNEL) as spec:
        (client,) = spec.processes
        assert isinstance(client, HttpSpec)
        streams = Streams(client.url, questions)
        try:
            yield streams
        finally:
            streams.close()


def _wait_for(streams: Streams, release: str) -> None:
    """Until it has answered every question. Raises: EngineError if that takes too long."""
    deadline = time.monotonic() + WITHIN_S
    while len({one.question for one in streams.heard if one.release == release}) < streams.number:
        if time.monotonic() > deadline:
            raise EngineError(
                f"not every question has an answer of the next release: {WITHIN_S:g} s"
            )
        time.sleep(0.1)


def _bytes_read(pids: Iterable[int]) -> int:
    """What processes have read of files and pipes so far, from memory or a disk."""
    lines = [line for pid in pids for line in (PROC / f"{pid}/io").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("rchar:"))

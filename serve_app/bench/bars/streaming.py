"""Measures tokens/s of a whole endpoint divided by those of its engine alone.

Endpoint, engine and client share the machine's cores, so the value includes the cost of HTTP.
"""

import statistics
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from consolidation.release import Registry
from serve_app.bench.arms.answering import opened
from serve_app.bench.arms.arm_catalogue import ArmSpec, arm_spec, usable_cores
from serve_app.bench.arms.endpoint import HttpSpec
from serve_app.bench.arms.process import answer_all
from serve_app.bench.arms.weight_specs import PublishedSpec
from serve_app.bench.bars.compared import DRAIN_S, ROUNDS, TOGETHER, Subject
from serve_app.bench.bars.publishing import publish
from serve_app.bench.requests.open_loop import Run
from serve_app.bench.requests.outcomes import numbers
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.config import ServeConfig, UserConfig
from serve_app.errors import EngineError

FAMILY, CHANNEL = "bench", "stable"
READY_S = 120.0


def http_over_engine(
    subject: Subject, *, rounds: int = ROUNDS, on_progress: OnProgress = lambda *_: None
) -> Measured:
    """All requests at once, answers streamed: tokens/s over HTTP divided by the engine's own.

    The subject's weights are published to a temporary registry. First an engine in its own
    process serves them, then an endpoint as `expertpool serve` starts it, on a free port of the
    loopback. Each figure is the median of several rounds, after one that is not counted.
    Raises: EngineError if one does not get ready, or a request is lost.
    """
    with tempfile.TemporaryDirectory(prefix="expertpool-bench-") as place:
        registry = Registry(place, FAMILY)
        source = PublishedSpec(place, FAMILY, publish(subject.ground.source.open(), registry))
        registry.move_channel(CHANNEL, source.release)
        subject = replace(subject, ground=replace(subject.ground, source=source))
        engine = arm_spec("pool", subject.ground, usable_cores())
        direct = _rounds(engine, subject, rounds, on_progress)
        with _served(subject, place) as address:
            client = ArmSpec("http", (HttpSpec(address, subject.ground.models),))
            streamed = _rounds(client, subject, rounds, on_progress)
    rates = {
        "engine_tokens_per_s": statistics.median(_rate(run) for run in direct),
        "http_tokens_per_s": statistics.median(_rate(run) for run in streamed),
    }
    shares = [run.client.processor_share for run in streamed]
    ttft = numbers(streamed[-1].outcomes)["ttft_s"]
    facts = {
        **rates,
        "client_processor_share": max(shares),
        "client_warnings": streamed[-1].client.warnings(ttft),
        "lost": 0,
    }
    return Measured(rates["http_tokens_per_s"] / rates["engine_tokens_per_s"], facts)


def _rounds(spec: ArmSpec, subject: Subject, rounds: int, on_progress: OnProgress) -> list[Run]:
    found = []
    with opened(spec) as processes:
        for number in range(rounds + 1):
            on_progress(spec.name, number, rounds + 1)
            workload = replace(
                subject.workload, seed=number
            )  # other prompts, so that none is cached
            jobs = workload.jobs(workload.backlog(TOGETHER), subject.asked).jobs
            (answered,) = answer_all(processes, jobs, drain_s=DRAIN_S)
            lost = [outcome for outcome in answered.run.outcomes if outcome.is_lost]
            if lost:
                raise EngineError(
                    f"{spec.name} lost {len(lost)} of {len(jobs)} requests: {lost[0].error}"
                )
            found.append(answered.run)
    on_progress(spec.name, rounds + 1, rounds + 1)
    return found[1:]


def _rate(run: Run) -> float:
    """Tokens of answers per second."""
    rate: float = numbers(run.outcomes)["answer_tokens_per_s"]
    return rate


@contextmanager
def _served(subject: Subject, registry: str) -> Iterator[str]:
    """The endpoint's address. Imports Ray here."""
    from serve_app.serving.run import endpoint, free_port

    config = ServeConfig(registry=registry, family=FAMILY, engine=subject.ground.engine)
    with endpoint(config, UserConfig(channel=CHANNEL), free_port()) as address:
        _wait_until_ready(address)
        yield address


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(f"{address}/ready", timeout=READY_S):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise EngineError(f"{address} is not ready after {READY_S:g} s") from error
        time.sleep(0.1)

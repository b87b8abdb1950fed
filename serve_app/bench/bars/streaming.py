"""Measures the bars of an endpoint: tokens/s divided by its engine's, and what a token costs.

Endpoint, engine and client share the machine's cores, so the ratio includes the cost of HTTP.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from serve_app.bench.arms.answering import opened
from serve_app.bench.arms.arm_catalogue import ArmSpec, arm_spec, usable_cores
from serve_app.bench.arms.process import answer_all
from serve_app.bench.bars.compared import DRAIN_S, ROUNDS, TOGETHER, Subject
from serve_app.bench.http.http_cost import Asking, costs
from serve_app.bench.http.local_endpoint import endpoint_of, published
from serve_app.bench.requests.open_loop import Run
from serve_app.bench.requests.outcomes import numbers
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.errors import EngineError


def http_over_engine(
    subject: Subject, *, rounds: int = ROUNDS, on_progress: OnProgress = lambda *_: None
) -> Measured:
    """All requests at once, answers streamed: tokens/s over HTTP divided by the engine's own.

    First an engine in its own process serves the subject's weights, then an endpoint. Each figure
    is the median of several rounds, after one that is not counted.
    Raises: EngineError if one does not get ready, or a request is lost.
    """
    with published(subject.ground) as ground:
        subject = replace(subject, ground=ground)
        engine = arm_spec("pool", ground, usable_cores())
        direct = _rounds(engine, subject, rounds, on_progress)
        with endpoint_of(ground) as client:
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


def us_per_token(
    subject: Subject, streams: Sequence[int], on_progress: OnProgress = lambda *_: None
) -> dict[int, Measured]:
    """Processor time outside engine and client for a token, in µs, by the number of streams.

    Raises: EngineError if the endpoint does not get ready, or a request is lost.
    """
    most = max(streams)
    engine = replace(subject.ground.engine, kv_tokens=most * 2 * subject.tokens, max_sequences=most)
    ground = replace(subject.ground, engine=engine)
    rows, _ = costs(ground, Asking(subject.asked, subject.workload), streams, on_progress)
    return {row["streams"]: Measured(row["outside_us_per_token"], row) for row in rows}


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

"""Measures the bars that compare ways of serving. Does not judge them."""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from serve_app.bench.arms.answering import opened
from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import arm_spec, usable_cores
from serve_app.bench.arms.process import ArmProcess, answer_all
from serve_app.bench.arms.weight_specs import RandomSpec
from serve_app.bench.bars.decoding import median_ratio
from serve_app.bench.compare.compare import sustained
from serve_app.bench.requests.outcomes import numbers
from serve_app.bench.requests.workload import Asked, Lengths, TimedJob, Workload
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.weights.shapes import SHAPES
from serve_app.engine.config import EngineConfig
from serve_app.errors import EngineError

NUM_MODELS = 4
TOKENS = 64
"""Tokens of every prompt, and of every answer."""
SHARE = 0.6
"""The share of what isolated processes can sustain at which the pool is compared with them."""
RUNS = 5
"""How often, each time with other requests; the median counts."""
ARRIVALS_S = 6.0
"""Seconds of arrivals in a run."""
AT_ONCE = 32
"""How many sequences fit the KV store; isolated processes share them."""
DRAIN_S = 300.0
TOGETHER = 16
"""How many requests an engine and transformers get at once."""
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """What is compared: see `bars_subject`. tokens: of every prompt, and of every answer."""

    ground: Ground
    asked: tuple[Asked, ...]
    tokens: int = TOKENS

    @property
    def workload(self) -> Workload:
        each = Lengths(self.tokens, self.tokens)
        return Workload(each, each, skew=0.0, seed=0)


def bars_subject() -> Subject:
    """Four models of the bars' shape in bfloat16, one release with the experts of one model."""
    shape = SHAPES["mixtral-115m"]
    names = tuple(f"m{number}" for number in range(NUM_MODELS))
    ground = Ground(
        RandomSpec(shape.config(), NUM_MODELS, "bfloat16"),
        names,
        EngineConfig(
            device="cpu", dtype="bfloat16", kv_tokens=AT_ONCE * 2 * TOKENS, max_sequences=AT_ONCE
        ),
    )
    vocabulary = int(shape.fields["vocab_size"])
    return Subject(ground, tuple(Asked(name, 2 * TOKENS, vocabulary) for name in names))


def pool_over_isolated_turnaround(
    subject: Subject,
    *,
    runs: int = RUNS,
    arrivals_s: float = ARRIVALS_S,
    on_progress: OnProgress = lambda *_: None,
) -> Measured:
    """Mean turnaround of `pool` divided by that of `isolated`, at a share of what that sustains.

    Both are open all the time, and get each run's requests in turn. The median of the runs' ratios.
    Raises: EngineError if a request is lost, because then the means say nothing.
    """
    workload, ground = subject.workload, subject.ground
    with ExitStack() as stack:
        arms = {
            name: stack.enter_context(opened(arm_spec(name, ground, usable_cores())))
            for name in ("isolated", "pool")
        }
        taken = sustained(
            arms["isolated"], ground, workload, subject.asked, on_progress=on_progress
        )
        means: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(runs):
            on_progress("pool and isolated", number, runs)
            drawn = replace(workload, seed=number)
            jobs = drawn.jobs(drawn.arrivals(SHARE * taken, arrivals_s), subject.asked).jobs
            for name, processes in arms.items():
                told = _numbers(name, processes, jobs)
                means[name].append(told["turnaround_s"]["mean"])
        on_progress("pool and isolated", runs, runs)
    facts = {"isolated_capacity": taken, "rate": SHARE * taken, "turnaround_s": means}
    return Measured(median_ratio(means["pool"], means["isolated"]), facts)


def engine_over_transformers(
    subject: Subject, *, rounds: int = ROUNDS, on_progress: OnProgress = lambda *_: None
) -> Measured:
    """Tokens/s of one model's engine divided by those of transformers, all requests at once.

    Each is the median of several rounds, after one that is not counted.
    Raises: EngineError if a request is lost.
    """
    rates = {
        name: statistics.median(_rates(name, subject, rounds, on_progress))
        for name in ("single", "transformers")
    }
    facts = {f"{name}_tokens_per_s": rate for name, rate in rates.items()}
    return Measured(rates["single"] / rates["transformers"], facts)


def _rates(name: str, subject: Subject, rounds: int, on_progress: OnProgress) -> list[float]:
    """Tokens of answers a second in each round."""
    only = subject.asked[:1]
    spec = arm_spec(name, replace(subject.ground, models=(only[0].name,)), usable_cores())
    found = []
    with opened(spec) as processes:
        for number in range(rounds + 1):
            on_progress(name, number, rounds + 1)
            workload = replace(subject.workload, seed=number)
            jobs = workload.jobs(workload.backlog(TOGETHER), only).jobs
            found.append(_numbers(name, processes, jobs)["answer_tokens_per_s"])
    on_progress(name, rounds + 1, rounds + 1)
    return found[1:]


def _numbers(
    name: str, processes: Sequence[ArmProcess], jobs: Sequence[TimedJob]
) -> dict[str, Any]:
    """What `outcomes.numbers` says of an arm's answers. Raises: EngineError if one is lost."""
    answered = answer_all(processes, jobs, drain_s=DRAIN_S)
    told = numbers([outcome for one in answered for outcome in one.run.outcomes])
    if told["lost"]:
        raise EngineError(f"{name} lost {told['lost']} of {len(jobs)} requests")
    return told

"""What benchmarks under load ask: how many requests, of which length, of which models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.bench import release_choice
from serve_app.cli.bench.axes import DENSE
from serve_app.cli.errors import WrongUse
from serve_app.cli.parsing import parse_limit, parse_positive

if TYPE_CHECKING:
    from serve_app.bench.arms.weight_specs import SourceSpec
    from serve_app.bench.requests.workload import Asked, Lengths, RequestArrival, Workload
    from serve_app.engine.config import EngineConfig
    from serve_app.engine.memory_plan import MemoryPlan
    from serve_app.engine.source import ReleaseSource

NUM_MODELS = 4
"""Models of a shape by default."""

NumModels = Annotated[
    int | None,
    typer.Option(
        "--models",
        min=1,
        metavar="N",
        show_default=False,
        help=f"Models of the shape. Default: {NUM_MODELS}.",
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        "--rate",
        metavar="X",
        parser=parse_positive,
        show_default=False,
        help="Requests per second, over all models.",
    ),
]
Skew = Annotated[
    float,
    typer.Option(
        "--skew",
        metavar="X",
        parser=parse_limit,
        help="Zipf exponent of the models' popularity; 0 asks all equally often.",
    ),
]
PromptTokens = Annotated[
    str, typer.Option("--prompt-tokens", metavar="N|N-N", help="Tokens of a prompt, or a range.")
]
AnswerTokens = Annotated[
    str, typer.Option("--answer-tokens", metavar="N|N-N", help="Tokens of an answer, or a range.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of arrivals, lengths and prompts.")]
Drain = Annotated[
    float,
    typer.Option(
        "--drain",
        metavar="S",
        parser=parse_positive,
        help="Seconds after the last arrival until open requests count as lost.",
    ),
]


@dataclass(frozen=True, slots=True)
class AskedRelease:
    """A release that engines on this machine serve, and which of its models are asked."""

    spec: SourceSpec
    source: ReleaseSource
    models: tuple[str, ...]
    settings: dict[str, Any]

    def asked(self, most_tokens: int) -> list[Asked]:
        """Its models for a workload. most_tokens: the most that any request may have."""
        from representation.architecture.config import config_of, vocabulary_size
        from serve_app.bench.requests.workload import Asked
        from serve_app.engine.model.facts import context_length

        configs = {name: self.source.models[name].config for name in self.models}
        return [
            Asked(
                name,
                min(context_length(config), most_tokens),
                vocabulary_size(config_of(config)),
            )
            for name, config in configs.items()
        ]

    def plan(self, engine: EngineConfig) -> MemoryPlan:
        """The memory plan of an engine for it. Raises: DoesNotFit, Unsupported."""
        from serve_app.engine.memory import plan_memory

        return plan_memory(self.source, engine)


def asked_release(
    subject: release_choice.Published | None,
    *,
    shape: str | None,
    layers: int | None,
    models: int | None,
    engine: EngineConfig,
    parts: str = DENSE,
    residuals: tuple[str, ...] = (),
) -> AskedRelease:
    """The named release, or random weights of a shape. engine: see `on_its_device`.

    parts, residuals: formats of the shape's slots, and of each expert's residuals.

    Raises:
        typer.BadParameter, WrongUse: the options are wrong; NotFound: there is no such release.
    """
    from serve_app.bench.arms.weight_specs import PublishedSpec, RandomSpec

    if subject is not None:
        source = subject.open(0)
        spec = PublishedSpec(subject.registry, subject.family, source.id)
        return AskedRelease(spec, source, tuple(sorted(source.models)), subject.settings())
    random = release_choice.random(
        shape, layers, dtype=engine.dtype, device=engine.device, merged=True
    )
    made = RandomSpec(
        random.config, models or NUM_MODELS, random.dtype, random.device, parts, residuals
    )
    source = made.open()
    settings = {name: value for name, value in random.settings().items() if name != "merged"}
    settings |= {"parts": parts, "residuals": list(residuals)}
    return AskedRelease(made, source, tuple(source.models), settings)


def parse_lengths(value: str, *, hint: str) -> Lengths:
    """A number of tokens, or a range: `64`, `32-128`.

    Raises:
        typer.BadParameter: it is neither, or the range is empty.
    """
    from serve_app.bench.requests.workload import Lengths

    low, dash, high = value.partition("-")
    ends = [low, high] if dash else [low, low]
    if not all(end.isascii() and end.isdigit() and int(end) > 0 for end in ends):
        raise typer.BadParameter(
            f"{value!r} is neither a number of tokens, at least 1, nor a range such as 32-128",
            param_hint=hint,
        )
    if int(ends[0]) > int(ends[1]):
        raise typer.BadParameter(f"{value!r}: {ends[0]} is more than {ends[1]}", param_hint=hint)
    return Lengths(int(ends[0]), int(ends[1]))


def kv_tokens_for(workload: Workload, sequences: int) -> int:
    """Tokens of keys and values for as many of the longest requests at the same time."""
    from serve_app.engine.unit_bytes import BLOCK_SIZE

    longest = workload.prompt.high + workload.answer.high
    return sequences * -(-longest // BLOCK_SIZE) * BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where arrivals end: after some seconds, and after some number; None for no such limit."""

    duration_s: float | None
    requests: int | None


def poisson_arrivals(
    rate: float, lengths: Sequence[Lengths], bounds: Bounds, *, seed: int
) -> list[RequestArrival]:
    """The arrivals of a Poisson process. lengths: of prompts, and of answers."""
    from serve_app.bench.requests.workload import poisson

    prompt, answer = lengths
    return poisson(
        rate,
        prompt=prompt,
        answer=answer,
        seed=seed,
        duration_s=bounds.duration_s,
        num=bounds.requests,
    )


def trace_arrivals(file: Path, bounds: Bounds, *, speed: float) -> list[RequestArrival]:
    """The arrivals of a trace file.

    Raises:
        WrongUse: there is no such file; ConfigError: it is not a trace.
    """
    from serve_app.bench.requests.workload import parse_trace

    if not file.is_file():
        raise WrongUse(f"--trace {file}: there is no such file")
    with file.open(encoding="utf-8", errors="replace", newline="") as lines:
        return parse_trace(lines, speed=speed, duration_s=bounds.duration_s, num=bounds.requests)

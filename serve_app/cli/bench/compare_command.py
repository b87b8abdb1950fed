"""`bench compare`: its options. Measures nothing, words no result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.bench import asking, files, release_choice
from serve_app.cli.bench.asking import (
    AnswerTokens,
    Drain,
    NumModels,
    PromptTokens,
    Rate,
    Seed,
    Skew,
)
from serve_app.cli.bench.axes import parse_choices
from serve_app.cli.bench.files import HtmlFile, JsonFile
from serve_app.cli.bench.shown import show, stages
from serve_app.cli.bench.subject_options import (
    MaybeFamily,
    MaybeRegistry,
    MaybeRelease,
    NumLayers,
    ShapeName,
    on_its_device,
)
from serve_app.cli.engine_options import engine_options
from serve_app.cli.errors import WrongUse
from serve_app.cli.parsing import parse_positive
from serve_app.engine.config import EngineConfig

if TYPE_CHECKING:
    from serve_app.bench.arms.arm import Ground
    from serve_app.bench.requests.workload import Asked, Workload

SHARE = 0.7
"""The rate by default: this share of what the pool can sustain."""
ALL = "all"


@engine_options(without=("kv_tokens", "num_places", "max_sequences", "prefix_cache"))
def compare(
    engine: EngineConfig,
    arms: Annotated[
        str, typer.Option(metavar="ARM,…", help="Which arms, in this order. Default: all seven.")
    ] = ALL,
    shape: ShapeName = None,
    layers: NumLayers = None,
    models: NumModels = None,
    registry: MaybeRegistry = None,
    family: MaybeFamily = None,
    release: MaybeRelease = None,
    rate: Rate = None,
    load: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            parser=parse_positive,
            show_default=False,
            help=f"Rate as a share of what `pool` can sustain. Default: {SHARE}.",
        ),
    ] = None,
    skew: Skew = 0.0,
    duration: Annotated[
        float, typer.Option(metavar="S", parser=parse_positive, help="Seconds of arrivals.")
    ] = 60.0,
    prompt_tokens: PromptTokens = "64",
    answer_tokens: AnswerTokens = "64",
    sequences: Annotated[
        int, typer.Option(min=1, help="Room for keys and values, in sequences.")
    ] = 32,
    seed: Seed = 0,
    drain: Drain = 600.0,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Send the same requests through several ways of serving, one after another.

    They are pool, pool-unmerged, isolated, swap, separate, single, transformers.
    Each has the whole machine during its turn, and the same memory for keys
    and values.
    """
    files.require_writable(json_file, html_file)
    from serve_app.bench.arms.arm_catalogue import ARMS
    from serve_app.bench.compare.compare import Turns, measure_arms
    from serve_app.bench.compare.compare_terminal import terminal
    from serve_app.bench.requests.workload import Workload

    chosen_arms = list(ARMS) if arms == ALL else parse_choices(arms, tuple(ARMS), hint="--arms")
    if rate is not None and load is not None:
        raise WrongUse("give either --rate or --load, not both")
    workload = Workload(
        asking.parse_lengths(prompt_tokens, hint="--prompt-tokens"),
        asking.parse_lengths(answer_tokens, hint="--answer-tokens"),
        skew,
        seed,
    )
    subject = release_choice.published(registry, family, release, shape=shape, layers=layers)
    chosen = on_its_device(engine)
    found = asking.asked_release(subject, shape=shape, layers=layers, models=models, engine=chosen)
    ground, asked = _ground(found, workload, chosen, sequences)
    turns = Turns(chosen_arms, rate, load or SHARE, duration, drain)
    settings = {
        **found.settings,
        "models": list(ground.models),
        "dtype": ground.engine.dtype,
        "kv_tokens": ground.engine.kv_tokens,
        "sequences": sequences,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "skew": skew,
        "seed": seed,
        "duration_s": duration,
        "drain_s": drain,
    }
    with stages() as on_progress:
        result = measure_arms(ground, asked, workload, turns, settings, on_progress)
    show(terminal(result))
    files.write(result, json_file, html_file)


def _ground(
    found: asking.AskedRelease, workload: Workload, engine: EngineConfig, sequences: int
) -> tuple[Ground, list[Asked]]:
    """What all arms work with, and the models as each arm can be asked.

    Raises: DoesNotFit, Unsupported; WrongUse if no request fits into an isolated process.
    """
    from serve_app.bench.arms.arm import Ground

    longest = workload.prompt.high + workload.answer.high
    kv_tokens = asking.kv_tokens_for(workload, sequences)
    wanted = replace(engine, kv_tokens=kv_tokens, max_sequences=sequences)
    plan = found.plan(wanted)
    least = kv_tokens // len(found.models)
    if least < longest:
        raise WrongUse(
            f"--sequences {sequences}: {kv_tokens} tokens of keys and values, divided between "
            f"{len(found.models)} isolated models, have no room for a request of {longest}"
        )
    planned = replace(wanted, dtype=plan.dtype, device_memory=plan.device_memory)
    ground = Ground(found.spec, found.models, planned)
    return ground, found.asked(least)

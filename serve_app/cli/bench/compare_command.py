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
from serve_app.cli.bench.axes import (
    DENSE,
    NOTHING,
    only,
    parse_choices,
    parse_residuals,
    parse_slots,
)
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

SHARE, SHARE_OF = 0.7, "pool"
"""The rate by default: this share of what this arm can sustain."""
DURATION_S = 60.0
"""Seconds of arrivals by default."""
ALL = "all"


@engine_options(without=("kv_tokens", "num_places", "max_sequences", "prefix_cache"))
def compare(
    engine: EngineConfig,
    arms: Annotated[str, typer.Option(metavar="ARM,…", help="Which arms, in this order.")] = ALL,
    shape: ShapeName = None,
    layers: NumLayers = None,
    models: NumModels = None,
    registry: MaybeRegistry = None,
    family: MaybeFamily = None,
    release: MaybeRelease = None,
    parts: Annotated[
        str, typer.Option(metavar="F", help="Format of the slots of a shape: packed-4-128.")
    ] = DENSE,
    residual: Annotated[
        str,
        typer.Option(metavar="F", help="Residuals of the experts of a shape: packed-2-128."),
    ] = NOTHING,
    rate: Rate = None,
    load: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            parser=parse_positive,
            show_default=False,
            help=f"Rate as a share of what an arm can sustain. Default: {SHARE}.",
        ),
    ] = None,
    load_of: Annotated[
        str | None,
        typer.Option(
            metavar="ARM",
            show_default=False,
            help=f"The arm that --load is a share of. Default: {SHARE_OF}.",
        ),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            show_default=False,
            help="Send N requests at the start, instead of at a rate.",
        ),
    ] = None,
    skew: Skew = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            parser=parse_positive,
            show_default=False,
            help=f"Seconds of arrivals. Default: {DURATION_S:g}.",
        ),
    ] = None,
    prompt_tokens: PromptTokens = "64",
    answer_tokens: AnswerTokens = "64",
    sequences: Annotated[
        int,
        typer.Option(min=1, help="The most at once, and room for keys and values of as many."),
    ] = 32,
    seed: Seed = 0,
    drain: Drain = 600.0,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Send the same requests through several ways of serving, one after another.

    They are pool, pool-unmerged, isolated, swap, separate, single, transformers,
    llama.cpp, llama.cpp-q8_0, llama.cpp-q4_0. Each has the whole machine during
    its turn, and the same memory for keys and values. llama.cpp needs
    `pip install 'expertpool[bench]'`, and is skipped without it.
    """
    files.require_writable(json_file, html_file)
    from serve_app.bench.arms.arm_catalogue import ARMS
    from serve_app.bench.compare.compare import Turns, measure_arms
    from serve_app.bench.compare.compare_terminal import terminal
    from serve_app.bench.requests.workload import Workload

    chosen_arms = list(ARMS) if arms == ALL else parse_choices(arms, tuple(ARMS), hint="--arms")
    _require_one_kind_of_arrivals(at_once, rate, load, load_of, duration)
    known = parse_choices(load_of or SHARE_OF, tuple(ARMS), hint="--load-of")
    share_of = only(known, hint="--load-of")
    slots = only(parse_slots(parts, hint="--parts"), hint="--parts")
    added = only(parse_residuals(residual, hint="--residual"), hint="--residual")
    workload = Workload(
        asking.parse_lengths(prompt_tokens, hint="--prompt-tokens"),
        asking.parse_lengths(answer_tokens, hint="--answer-tokens"),
        skew,
        seed,
    )
    subject = release_choice.published(
        registry,
        family,
        release,
        shape=shape,
        layers=layers,
        parts=slots != DENSE,
        residual=bool(added),
    )
    chosen = on_its_device(engine)
    found = asking.asked_release(
        subject,
        shape=shape,
        layers=layers,
        models=models,
        engine=chosen,
        parts=slots,
        residuals=added,
    )
    ground, asked = _ground(found, workload, chosen, sequences)
    seconds = duration or DURATION_S
    turns = Turns(chosen_arms, at_once, rate, load or SHARE, share_of, seconds, drain)
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
        "at_once": at_once,
        "duration_s": None if at_once else seconds,
        "drain_s": drain,
    }
    with stages() as on_progress:
        result = measure_arms(ground, asked, workload, turns, settings, on_progress)
    show(terminal(result))
    files.write(result, json_file, html_file)


def _require_one_kind_of_arrivals(
    at_once: int | None,
    rate: float | None,
    load: float | None,
    load_of: str | None,
    duration: float | None,
) -> None:
    """Raises: WrongUse for two options that say when requests come."""
    if at_once is not None and any((rate, load, load_of, duration)):
        raise WrongUse("with --at-once there is no --rate, --load, --load-of or --duration")
    if rate is not None and (load or load_of):
        raise WrongUse("give either --rate or --load and --load-of, not both")


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

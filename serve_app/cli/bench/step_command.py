"""`bench step`: what is asked for. Measures nothing. Runs without pydantic, HTTP and Ray."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.bench import files, release_choice
from serve_app.cli.bench.axes import (
    DENSE,
    NOTHING,
    parse_choices,
    parse_counts,
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
    Unmerged,
    on_its_device,
)
from serve_app.cli.engine_options import engine_options
from serve_app.engine.config import EngineConfig

if TYPE_CHECKING:
    from serve_app.bench.step.step_benchmark import MeasuredRelease

MODELS = (1, 2, 4, 8)
STEP_TOKENS = 2048
"""Unless others are given: prefills of many sequences are one step."""


@engine_options(
    without=("kv_tokens", "num_places", "max_sequences", "max_model_wait_s", "prefix_cache"),
    step_tokens=STEP_TOKENS,
)
def step(
    engine: EngineConfig,
    shape: ShapeName = None,
    layers: NumLayers = None,
    registry: MaybeRegistry = None,
    family: MaybeFamily = None,
    release: MaybeRelease = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            show_default=False,
            help="Models in a step. Default: 1,2,4,8, as far as they exist.",
        ),
    ] = None,
    sequences: Annotated[
        str, typer.Option(metavar="N,…", help="Sequences in a step, spread over its models.")
    ] = "8,16",
    context: Annotated[str, typer.Option(metavar="N,…", help="Tokens of each sequence.")] = "64",
    phase: Annotated[
        str,
        typer.Option(
            metavar="P,…", help="decode: one more token each; prefill: the whole context."
        ),
    ] = "decode,prefill",
    places: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            show_default=False,
            help="Places for backbones. Default: the largest of --models.",
        ),
    ] = None,
    parts: Annotated[
        str,
        typer.Option(
            metavar="F,…",
            help="Formats of the slots of a shape, or of parts of slots for a matrix each: "
            "dense,packed-3-128@gate_up_proj+packed-4-128@down_proj.",
        ),
    ] = DENSE,
    residual: Annotated[
        str,
        typer.Option(
            metavar="F,…", help="Residuals of the experts of a shape: none,rank-8,packed-1-128."
        ),
    ] = NOTHING,
    unmerged: Unmerged = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Also measure loading of backbones.")
    ] = False,
    outside: Annotated[
        bool,
        typer.Option(
            "--outside",
            help="Also measure the processor time outside the forward, of 16, 64, 256 sequences.",
        ),
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps per point.")] = 20,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Time steps of one engine, and compare them with the shortest possible time.

    That is the time for the bytes that must move at the rate of copying, or for
    the operations at the rate of matrix products, whichever is longer.
    Both rates are measured here. Prefills longer than a step are left out.
    """
    files.require_writable(json_file, html_file)
    from serve_app.bench.step.grid import PHASES, Grid
    from serve_app.bench.step.step_benchmark import measure_steps
    from serve_app.bench.step.step_terminal import terminal
    from serve_app.bench.step.timing import Conditions

    grid = Grid(
        parse_choices(phase, PHASES, hint="--phase"),
        parse_counts(models, hint="--models") if models else MODELS,
        parse_counts(sequences, hint="--sequences"),
        parse_counts(context, hint="--context"),
    )
    rooms = parse_counts(places, hint="--places") if places else None
    slots = parse_slots(parts, hint="--parts")
    added = parse_residuals(residual, hint="--residual")
    conditions = Conditions(on_its_device(engine), steps)
    subject: MeasuredRelease | None = release_choice.published(
        registry,
        family,
        release,
        shape=shape,
        layers=layers,
        unmerged=unmerged,
        parts=slots != [DENSE],
        residual=added != [()],
    )
    if subject is None:
        merged = not unmerged
        subject = release_choice.random(
            shape, layers, dtype=engine.dtype, device=conditions.engine.device, merged=merged
        )
    elif not models:
        there = len(subject.open(0).models)
        grid = replace(grid, models=[number for number in MODELS if number <= there])
    formats = list(itertools.product(slots, added))
    with stages() as on_progress:
        result = measure_steps(
            subject,
            grid,
            rooms,
            formats,
            conditions,
            cold=cold,
            outside=outside,
            on_progress=on_progress,
        )
    show(terminal(result))
    files.write(result, json_file, html_file)

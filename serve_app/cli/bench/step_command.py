"""`bench step`: what is asked for, and what is shown. Runs without pydantic, HTTP and Ray."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli import output
from serve_app.cli.bench import files, release_choice
from serve_app.cli.bench.axes import (
    NOTHING,
    parse_choices,
    parse_counts,
    parse_formats,
    parse_residuals,
)
from serve_app.cli.bench.files import HtmlFile, JsonFile
from serve_app.cli.bench.subject_options import (
    ComputeDtype,
    MaybeDevice,
    MaybeFamily,
    MaybeRegistry,
    MaybeRelease,
    NumLayers,
    ShapeName,
    Unmerged,
    choose_device,
)
from serve_app.cli.errors import WrongUse
from serve_app.cli.serving import Dtype

if TYPE_CHECKING:
    from serve_app.bench.result.result import Result
    from serve_app.bench.step.grid import Grid
    from serve_app.bench.step.timing import Setting
    from serve_app.engine.source import ReleaseSource

MODELS = (1, 2, 4, 8)
DENSE = "dense"
AXES = ("models", "sequences", "context", "places", "parts", "residuals")


def step(
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
            help="Models in a step. Default: 1,2,4,8, as far as there are.",
        ),
    ] = None,
    sequences: Annotated[
        str, typer.Option(metavar="N,…", help="Sequences in a step, spread over its models.")
    ] = "8,16",
    context: Annotated[
        str, typer.Option(metavar="N,…", help="Tokens that each sequence has.")
    ] = "64",
    phase: Annotated[
        str, typer.Option(metavar="P,…", help="decode: one more token each; prefill: all of them.")
    ] = "decode,prefill",
    places: Annotated[
        str | None,
        typer.Option(
            metavar="N,…",
            show_default=False,
            help="Places for backbones. Default: the most of --models.",
        ),
    ] = None,
    parts: Annotated[
        str, typer.Option(metavar="F,…", help="Formats of the shape's slots.")
    ] = DENSE,
    residual: Annotated[
        str,
        typer.Option(
            metavar="F,…", help="Residuals of every expert of the shape: none,rank-8,packed-1-128."
        ),
    ] = NOTHING,
    unmerged: Unmerged = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Load backbones too: first tokens, and rate of loads.")
    ] = False,
    device: MaybeDevice = None,
    dtype: ComputeDtype = Dtype.AUTO,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed at a point.")] = 20,
    step_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens of a step; longer prefills are left out.")
    ] = 2048,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Time steps of one engine and hold them against their floor.

    The floor is the bytes that must move over the rate of copying, or the operations over the
    rate of matrix products, both measured here: whichever takes longer.
    """
    files.require_writable(json_file, html_file)
    from serve_app.bench.step.grid import PHASES, Grid
    from serve_app.bench.step.timing import Setting

    grid = Grid(
        parse_choices(phase, PHASES, hint="--phase"),
        parse_counts(models, hint="--models") if models else MODELS,
        parse_counts(sequences, hint="--sequences"),
        parse_counts(context, hint="--context"),
    )
    rooms = parse_counts(places, hint="--places") if places else None
    slots = parse_formats(parts, ("dense", "packed"), hint="--parts")
    added = parse_residuals(residual, hint="--residual")
    setting = Setting(choose_device(device), dtype.value, steps, step_tokens)
    subject: release_choice.Subject | None = release_choice.published(
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
            shape, layers, dtype=dtype.value, device=setting.device, merged=merged
        )
    elif not models:
        there = len(subject.open(0).models)
        grid = replace(grid, models=[number for number in MODELS if number <= there])
    formats = list(itertools.product(slots, added))
    result = _measured(subject, grid, rooms, formats, setting, cold=cold)
    _print(result)
    files.write(result, json_file, html_file)


def _measured(
    subject: release_choice.Subject,
    grid: Grid,
    rooms: Sequence[int] | None,
    formats: Sequence[tuple[str, tuple[str, ...]]],
    setting: Setting,
    *,
    cold: bool,
) -> Result:
    """rooms: places for backbones; None: as many as models in the largest step.

    Raises: ConfigError, before anything is built, for what cannot be measured.
    """
    from consolidation.run.executor import Progress
    from serve_app.bench.result.environment import environment
    from serve_app.bench.result.result import Result
    from serve_app.bench.step.grid import Variant, require_places
    from serve_app.bench.step.rates import measure_rates
    from serve_app.bench.step.timing import dtype_of, limit_of, measure

    rooms = rooms or [max(grid.models)]
    num_models = max(*rooms, *grid.models)
    source = subject.open(num_models)
    limit = limit_of(source, setting)
    points = grid.points(limit)
    require_places(rooms, grid.models, limit.models)
    if cold and limit.models < 2:
        raise WrongUse("--cold: a model that is alone is never cold")
    variants = [Variant(number, *held) for number, held in itertools.product(rooms, formats)]
    found = environment(setting.device)
    total = len(variants) * len(points)
    with output.progress() as show:
        show(Progress("rates", 0, 1))
        rates = measure_rates(setting.device, dtype_of(setting, source))
        show(Progress("rates", 1, 1))
        show(Progress("steps", 0, total))
        rows = measure(
            lambda variant: subject.open(num_models, variant.parts, variant.residuals),
            variants,
            points,
            setting,
            rates,
            lambda done: show(Progress("steps", done, total)),
        )
        facts: dict[str, Any] = {"rates": asdict(rates)}
        if cold:
            facts["cold"] = _loads(source, setting, show)
    settings = subject.settings() | asdict(grid) | asdict(setting) | {"places": list(rooms)}
    return Result("step", found, settings, rows, facts)


def _loads(source: ReleaseSource, setting: Setting, show: output.Bars) -> dict[str, Any]:
    """What backbones that are not resident cost on an engine that does nothing else."""
    from consolidation.run.executor import Progress
    from serve_app.bench.step.cold import Cold, cold_over_resident_ttft

    found = cold_over_resident_ttft(
        source,
        Cold(places=min(2, len(source.models) - 1)),
        lambda stage, done, total: show(Progress(stage, done, total)),
        device=setting.device,
        dtype=setting.dtype,
    )
    return {"cold_over_resident": found.value, **found.facts}


def _print(result: Result) -> None:
    """The rates, and a line for each point; of axes with one value nothing is said in it."""
    rates = result.facts["rates"]
    out = output.out()
    products = ", ".join(
        f"{name} {rate / 1e9:,.0f}" for name, rate in rates["matrix_ops_s"].items()
    )
    out.print(
        f"copying {rates['copy_bytes_s'] / 1e9:,.1f} GB/s; matrix products, Gop/s: {products}"
    )
    axes = [axis for axis in AXES if len({str(row[axis]) for row in result.rows}) > 1]
    for phase in result.settings["phases"]:
        grid = output.table(
            *axes,
            *("step ms", "tokens/s", "floor ms", "of", "reached", "÷ one", "bytes"),
            left=0,
            title=phase,
        )
        for row in result.rows:
            if row["phase"] == phase:
                grid.add_row(*(_word(row[axis]) for axis in axes), *_cells(row))
        out.print(grid)
    if "cold" in result.facts:
        _print_loads(result.facts["cold"])


def _print_loads(cold: Mapping[str, Any]) -> None:
    share = cold["load_bytes_s"] / cold["host_to_device_bytes_s"]
    output.out().print(
        f"cold backbones of {output.size(cold['backbone_bytes'])}: {share:.0%} of the rate of "
        f"copying from the host, {cold['host_to_device_bytes_s'] / 1e9:,.1f} GB/s; first token "
        f"{cold['cold_s'] * 1e3:.1f} ms, resident {cold['resident_s'] * 1e3:.1f} ms",
        soft_wrap=True,
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Times, the floor, and what several models take over one: time, then bytes."""
    over = [row.get(f"{what}_over_one_model") for what in ("time", "bytes")]
    return [
        f"{row['step_s'] * 1e3:.2f}",
        f"{row['tokens_s']:,.0f}",
        f"{row['floor_s'] * 1e3:.2f}",
        "ops" if row["limit"] == "operations" else row["limit"],
        f"{row['reached']:.0%}",
        *("" if ratio is None else f"{ratio:.2f}" for ratio in over),
    ]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(value) or NOTHING
    return str(value)

"""Commands that use the engine: plan memory, run the demo. They build no release, nor serve one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli import output
from serve_app.cli.computing.computing_device import free_memory
from serve_app.cli.engine_options import engine_options
from serve_app.cli.errors import WrongUse
from serve_app.cli.options import Base, Channel, Family, Models, RegistryUrl
from serve_app.cli.parsing import (
    parse_models,
    parse_source,
)
from serve_app.cli.recipes.recipe_options import RecipePath, names_in_errors
from serve_app.cli.releases import DEFAULT_CHANNEL, open_registry, resolve
from serve_app.cli.serve.serve_command import ConfigFile
from serve_app.engine.config import EngineConfig
from serve_app.units import size

if TYPE_CHECKING:
    from consolidation.release import Manifest, Registry
    from consolidation.sources.model_source import ModelSource
    from serve_app.engine.memory_plan import MemoryPlan


@engine_options()
def plan_memory(
    context: typer.Context,
    family: Family,
    registry: RegistryUrl,
    engine: EngineConfig,
    recipe: RecipePath = None,
    channel: Channel = DEFAULT_CHANNEL,
    consolidation: Annotated[
        bool,
        typer.Option(
            "--consolidation",
            help="Plan for consolidating the models of --model or RECIPE instead. "
            "Of those that are not on this machine, it reads headers alone.",
        ),
    ] = False,
    model: Models = None,
    base: Base = None,
    config: ConfigFile = None,
) -> None:
    """Print how serving will divide memory, or why the release does not fit.

    With --consolidation, print what each stage of `consolidate` will hold at most.

    Also prints how many bytes of experts a decode step reads.
    Takes the options of `serve`, and plans exactly what `serve` allocates.
    If the stable channel has no release yet, it plans for the newest release.
    """
    if config is not None and recipe is not None:
        raise WrongUse("give either RECIPE or --config, not both")
    if consolidation:
        hint = names_in_errors(context)
        models = parse_models(model or [], hint=hint("model"))
        if not models:
            raise WrongUse("--consolidation needs --model NAME=SOURCE at least once, or RECIPE")
        original = parse_source(base, hint=hint("base")) if base else None
        _print_needs(family, registry, models, original)
        return
    if recipe or model or base:
        raise WrongUse("RECIPE, --model and --base are for --consolidation")
    from consolidation.release import ReleaseReader
    from serve_app.engine import memory

    opened = open_registry(registry, family)
    release = _release_of(opened, channel)
    reader = ReleaseReader(opened, release)
    _print_plan(release, memory.plan_memory(reader, engine))
    _print_step(reader.manifest)


def _release_of(registry: Registry, channel: str) -> str:
    """That of a channel; the newest, if the stable one has none yet. Raises `WrongUse`."""
    if channel == DEFAULT_CHANNEL:
        return resolve(registry, None)
    found = registry.channel(channel)
    if found is None:
        raise WrongUse(f"family {registry.family!r} has no channel {channel!r}")
    return found.release


def _print_needs(
    family: str, registry: str, models: dict[str, ModelSource], base: ModelSource | None
) -> None:
    """Print the most that each stage holds, and what is free. Reads headers alone."""
    import torch

    from consolidation.checkpoints.family import open_family
    from consolidation.plan.memory_needs import memory_needs
    from consolidation.sources.bringing import look_up

    opened_registry = open_registry(registry, family)
    with look_up(models, base).headers() as (files, base_files):
        opened = open_family(
            opened_registry,
            files,
            base=base_files,
            extend=None,
            remove=(),
            opened=lambda _: None,
        )
    cuda = torch.device("cuda")
    grid = output.table("stage", "bytes", "", "of a card", "")
    grid.columns[4].justify, grid.columns[4].no_wrap = "left", False
    for need in memory_needs(opened, is_lossy=True, device=cuda):
        own = str(need.num_bytes), size(need.num_bytes), size(need.device_bytes)
        grid.add_row(need.stage, *own, need.words)
    free = free_memory(cuda)
    if free.host is not None:
        of_card = "–" if free.device is None else size(free.device)
        grid.add_row("free", str(free.host), size(free.host), of_card, "of this machine")
    output.out().print(grid)


def _of_blocks(plan: MemoryPlan) -> str:
    """What keys and values are for."""
    words = f"{plan.kv_tokens} tokens in blocks of {plan.block_size}"
    return f"{words}, and as many of inputs of encoders" if plan.input_blocks else words


def _print_plan(release: str, plan: MemoryPlan) -> None:
    of = f"{plan.num_places} of {plan.num_backbones}"
    rows = (
        ("pool", plan.pool_bytes, f"{sum(plan.num_slots)} slots in {len(plan.num_slots)} layers"),
        (
            "backbones",
            plan.backbones_bytes,
            f"places for {of}, {size(plan.place_bytes)} each",
        ),
        ("  next", plan.next_bytes, _of_a_next_release(plan)),
        *(
            [("  saved", plan.shared_bytes, "as equal tensors of backbones are held once")]
            if plan.shared_bytes
            else []
        ),
        ("KV", plan.kv_bytes, _of_blocks(plan)),
        *(
            [("state", plan.states_bytes, f"of {plan.state_rows} sequences")]
            if plan.state_rows
            else []
        ),
        *(
            [
                ("attention", plan.attention_bytes, "the most that attention kernels keep"),
                ("captures", plan.captures_bytes, "the most that captured steps keep"),
            ]
            if plan.kept_bytes
            else []
        ),
        ("workspace", plan.workspace_bytes, "the most that a step should need"),
        ("total", plan.total_bytes, f"in {plan.dtype}"),
    )
    grid = output.table("", "bytes", "", "")
    grid.columns[3].justify = "left"
    for name, num_bytes, words in rows:
        grid.add_row(name, str(num_bytes), size(num_bytes), words)
    if plan.device_memory is not None:
        grid.add_row("spare", str(plan.spare_bytes), size(plan.spare_bytes), "left free")
        memory = size(plan.device_memory)
        grid.add_row("device", str(plan.device_memory), memory, "available")
    if plan.host_bytes:
        host = size(plan.host_bytes)
        of = f"{plan.num_copies} of {plan.num_backbones}"
        words = f"copies of {of} backbones"
        grid.add_row("host", str(plan.host_bytes), host, words)
    out = output.out()
    out.print(f"release {release}")
    out.print(grid)


def _of_a_next_release(plan: MemoryPlan) -> str:
    match plan.spare_places:
        case 0:
            return "no place to spare for a next release's"
        case 1:
            return "more at most, for one of a next release"
        case number:
            return f"more at most, for {number} of a next release"


def _print_step(manifest: Manifest) -> None:
    """What a decode step reads, if the release says what shapes its experts have."""
    if manifest.step_bytes is None:
        return
    step = output.decode_step(manifest.decode_step, len(manifest.models))
    read = f"{manifest.step_bytes} bytes ({size(manifest.step_bytes)}) of experts"
    output.out().print(f"\na decode step of {step}, reads {read}")


def demo(
    once: Annotated[bool, typer.Option("--once", help="Exit after the results.")] = False,
) -> None:
    """Make a small family of models, consolidate and serve it, and ask every model."""
    from serve_app.demo.demo import run

    raise typer.Exit(run(once))

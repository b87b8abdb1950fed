"""The `consolidate` command: options in, a release out. `consolidation` does the work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli import outcome, output
from serve_app.cli.computing.computing_device import (
    ComputingDevice,
    computing_device,
    free_memory,
)
from serve_app.cli.computing.lazy_ray import LazyRay
from serve_app.cli.errors import WrongUse
from serve_app.cli.options import (
    AsJson,
    Base,
    Channel,
    Family,
    MaxAccuracyDrop,
    MaxPerplexityRise,
    MinRetained,
    Models,
    NoiseFloor,
    RegistryUrl,
    Tasks,
    Texts,
)
from serve_app.cli.parsing import (
    parse_calibration,
    parse_count,
    parse_limit,
    parse_model_files,
    parse_models,
    parse_positive,
    parse_size,
    parse_source,
    parse_weights,
)
from serve_app.cli.progress import showing
from serve_app.cli.recipes.recipe_options import (
    RecipePath,
    RecipeSchema,
    chosen_sizes,
    names_in_errors,
    names_recipe,
)
from serve_app.cli.releases import open_registry, resolve

if TYPE_CHECKING:
    from consolidation.pipeline import Consolidated, Recipe
    from consolidation.plan.memory_needs import Free
    from consolidation.plan.values import Plan

Extend = Annotated[
    str | None,
    typer.Option(
        metavar="RELEASE",
        show_default=False,
        help="Add to this release: keep its models and slots.",
    ),
]
Remove = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", show_default=False, help="With --extend: leave this model out."),
]
ExpertBudget = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        parser=parse_positive,
        show_default=False,
        help="Size of the pool, in units of one model's experts. Default: lossless.",
    ),
]
TargetKl = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        parser=parse_positive,
        show_default=False,
        help="Instead of a budget: the smallest pool with this mean KL, in nats per token.",
    ),
]
ExpertMemory = Annotated[
    int | None,
    typer.Option(
        "--device-memory",
        metavar="BYTES",
        parser=parse_size,
        show_default=False,
        help="Instead of a budget: what fits a device with this memory, for example 24GiB.",
    ),
]
MaxFormats = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=parse_count,
        show_default=False,
        help="The most formats that a layer may have, slots and residuals together. Default: any.",
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weight",
        metavar="MODEL=W",
        show_default=False,
        help="How much a model counts. Default: 1.",
    ),
]
Exact = Annotated[
    list[str] | None,
    typer.Option(metavar="MODEL", show_default=False, help="Keep this model's experts unchanged."),
]
Calibration = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[MODEL=]FILE",
        show_default=False,
        help="Text for tuning and scoring (.txt or .jsonl), for all models or for one.",
    ),
]
MaxKl = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        parser=parse_limit,
        show_default=False,
        help="Publish nothing if a model's KL to its original is higher, in nats per token.",
    ),
]
NormalPriority = Annotated[
    bool,
    typer.Option(
        "--normal-priority",
        help="Compute at normal priority. Default: take only the time that others leave.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")]


def consolidate(
    context: typer.Context,
    family: Family,
    registry: RegistryUrl,
    recipe: RecipePath = None,
    model: Models = None,
    base: Base = None,
    extend: Extend = None,
    remove: Remove = None,
    expert_budget: ExpertBudget = None,
    target_kl: TargetKl = None,
    device_memory: ExpertMemory = None,
    max_formats: MaxFormats = None,
    weight: Weights = None,
    exact: Exact = None,
    noise_floor: NoiseFloor = None,
    channel: Channel = "stable",
    calibration: Calibration = None,
    task: Tasks = None,
    text: Texts = None,
    max_kl: MaxKl = None,
    max_accuracy_drop: MaxAccuracyDrop = None,
    max_perplexity_rise: MaxPerplexityRise = None,
    min_retained: MinRetained = None,
    device: ComputingDevice = "cpu",
    normal_priority: NormalPriority = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    recipe_schema: RecipeSchema = False,
) -> None:
    """Build a release from several checkpoints, and publish it.

    Identical experts are stored once. The others become shared slots and
    small residuals, as far as a budget asks for it. Every model is compared
    with its original before the release is published. A recipe file may hold
    the options.
    """
    computing = computing_device(device)
    hint = names_in_errors(context)
    chosen = parse_models(model or [], hint=hint("model"))
    original = parse_source(base, hint=hint("base")) if base else None
    weights = parse_weights(weight or [], hint=hint("weight"))
    texts = parse_calibration(calibration or [], hint=hint("calibration"))
    measured_tasks = parse_model_files(task or [], suffixes=[".jsonl"], hint=hint("task"))
    measured_texts = parse_model_files(text or [], suffixes=[".txt", ".jsonl"], hint=hint("text"))
    with names_recipe(context):
        sizes = chosen_sizes(
            context, expert_budget=expert_budget, target_kl=target_kl, device_memory=device_memory
        )
        if remove and extend is None:
            raise WrongUse(f"--remove {remove[0]} needs --extend RELEASE")
        if not chosen and not remove:
            raise WrongUse("nothing to do: give --model NAME=SOURCE at least once")
        if max_accuracy_drop is not None and not measured_tasks:
            raise WrongUse("--max-accuracy-drop needs --task MODEL=FILE.jsonl")
        if max_perplexity_rise is not None and not measured_texts:
            raise WrongUse("--max-perplexity-rise needs --text MODEL=FILE")
        if min_retained is not None and base is None:
            raise WrongUse("--min-retained needs --base SOURCE")

    import torch

    from consolidation.evaluation.gates import QualityLimits
    from consolidation.recipe import Recipe, check_recipe
    from consolidation.sources.bringing import pin
    from serve_app.cli.recipes.carried_out import recipe_text

    wanted = Recipe(
        family=family,
        registry=registry,
        models=chosen,
        base=original,
        extend=resolve(open_registry(registry, family), extend) if extend else None,
        remove=tuple(remove or ()),
        expert_budget=sizes["expert_budget"],
        target_kl=sizes["target_kl"],
        max_formats=max_formats,
        weights=weights,
        exact=frozenset(exact or ()),
        noise_floor=noise_floor,
        channel=channel,
        calibration=texts,
        tasks=measured_tasks,
        texts=measured_texts,
        limits=QualityLimits(max_kl, max_accuracy_drop, max_perplexity_rise, min_retained),
        device=torch.device(computing.type),  # which card that is, Ray tells each task
    )
    with names_recipe(context):
        check_recipe(wanted)
    chosen, original = pin(chosen, original)
    wanted = replace(wanted, models=chosen, base=original)
    if (memory := sizes["device_memory"]) is not None:
        wanted = replace(wanted, expert_bytes=_expert_bytes(wanted, memory))
    wanted = replace(wanted, as_file=recipe_text(wanted, memory))
    free = free_memory(computing)
    ray = LazyRay(
        context.obj,
        nice=0 if normal_priority else 19,
        only_gpu=computing.index,
        gpu_bytes=free.device,
    )
    found = _run(wanted, ray, free, dry_run=dry_run, to_stderr=as_json)
    if as_json:
        output.print_json(outcome.facts(wanted, found))
    elif found.manifest is not None and found.release is not None:
        report = open_registry(registry, family).report_name(found.release)
        outcome.print_release(found.release, channel, found.manifest, report)


def _expert_bytes(recipe: Recipe, device_memory: int) -> int:
    """Bytes that a device has left for experts. Raises `DoesNotFit`."""
    from consolidation.checkpoints.notes import note_nothing
    from consolidation.compare.menu import max_maps
    from consolidation.sources.bringing import look_up
    from serve_app.engine.config import EngineConfig
    from serve_app.engine.memory import expert_memory

    with look_up(recipe.models, None).headers() as (files, _):
        configs = [one.open(note_nothing).config for one in files.values()]
    if recipe.extend is not None:
        manifest = open_registry(recipe.registry, recipe.family).read_manifest(recipe.extend)
        left = set(manifest.models) - {*recipe.remove, *recipe.models}
        configs += [manifest.models[name].config for name in sorted(left)]
    return expert_memory(
        configs,
        str(configs[0]["dtype"]),
        EngineConfig(device_memory=device_memory),
        num_maps=max_maps(sum(one.adapter is not None for one in files.values())),
    )


def _run(
    recipe: Recipe, ray: LazyRay, free: Free, *, dry_run: bool, to_stderr: bool
) -> Consolidated:
    from consolidation.pipeline import consolidate as carry_out

    console = output.err() if to_stderr else output.out()
    with (
        _says_how_to_go_on(is_kept=not dry_run),
        redirect_stdout(sys.stderr),  # Ray prints there which of its workers have died.
        ray as executor,
        showing.progress() as show,
    ):
        is_search = recipe.target_kl is not None and not dry_run
        tried: set[int] = set()

        def on_plan(plan: Plan) -> None:
            if not is_search:
                with show.paused():
                    outcome.print_plan(plan, console)
            elif plan.expert_bytes_after not in tried:
                tried.add(plan.expert_bytes_after)
                with show.paused():
                    outcome.print_trial(plan, console)

        found = carry_out(
            recipe,
            executor=executor,
            progress=show,
            on_plan=on_plan,
            dry_run=dry_run,
            free=free,
        )
    if is_search:
        outcome.print_plan(found.plan, console)
    return found


@contextmanager
def _says_how_to_go_on(*, is_kept: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if is_kept:
            words = "what is done is kept: run the same command again to go on from there"
            output.err().print(words, soft_wrap=True)
        raise

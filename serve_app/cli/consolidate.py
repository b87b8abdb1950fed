"""The `consolidate` command: options in, a table out. The work is the consolidation package's."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from serve_app.cli import output
from serve_app.cli.errors import WrongUse
from serve_app.cli.options import (
    AsJson,
    Channel,
    Family,
    MaxAccuracyDrop,
    MaxPerplexityRise,
    RegistryUrl,
    Tasks,
    Texts,
    parse_budget,
    parse_calibration,
    parse_checkpoint,
    parse_limit,
    parse_model_files,
    parse_models,
    parse_size,
    parse_weights,
)
from serve_app.cli.releases import open_registry, resolve

if TYPE_CHECKING:
    from rich.console import Console

    from consolidation.pipeline import Outcome, Recipe
    from consolidation.plan import Plan
    from consolidation.ray_tasks import RayExecutor
    from consolidation.release import Manifest
    from serve_app.cli.processes import Interruption

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="NAME=DIR", show_default=False, help="A model and its checkpoint."
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", show_default=False, help="The checkpoint they were all fine-tuned from."
    ),
]
Extend = Annotated[
    str | None,
    typer.Option(metavar="RELEASE", show_default=False, help="Keep this release's slots."),
]
Remove = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", show_default=False, help="With --extend: leave a model out."),
]
ExpertBudget = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        parser=parse_budget,
        show_default=False,
        help="Expert bytes of the release, in units of one model's. Default: lossless.",
    ),
]
TargetKl = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        parser=parse_limit,
        show_default=False,
        help="Instead of a budget: the fewest bytes with this mean KL, in nats per token.",
    ),
]
ExpertMemory = Annotated[
    int | None,
    typer.Option(
        "--device-memory",
        metavar="BYTES",
        parser=parse_size,
        show_default=False,
        help="Instead of a budget: what fits a device with this much, for example 24GiB.",
    ),
]
Weights = Annotated[
    list[str] | None,
    typer.Option(
        "--weight", metavar="MODEL=W", show_default=False, help="How much a model counts, beside 1."
    ),
]
Exact = Annotated[
    list[str] | None,
    typer.Option(metavar="MODEL", show_default=False, help="Keep a model's experts as they are."),
]
Calibration = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[MODEL=]FILE",
        show_default=False,
        help="Text to tune to and to score: .txt or .jsonl, for all models or for one.",
    ),
]
MaxKl = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        parser=parse_limit,
        show_default=False,
        help="Publish no model that is further from its original, in nats per token.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")]


def consolidate(
    context: typer.Context,
    family: Family,
    registry: RegistryUrl,
    model: Models = None,
    base: Base = None,
    extend: Extend = None,
    remove: Remove = None,
    expert_budget: ExpertBudget = None,
    target_kl: TargetKl = None,
    device_memory: ExpertMemory = None,
    weight: Weights = None,
    exact: Exact = None,
    channel: Channel = "stable",
    calibration: Calibration = None,
    task: Tasks = None,
    text: Texts = None,
    max_kl: MaxKl = None,
    max_accuracy_drop: MaxAccuracyDrop = None,
    max_perplexity_rise: MaxPerplexityRise = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Build one release from several checkpoints, and publish it."""
    chosen = _models(model or [], extend, remove or [])
    original = parse_checkpoint(base, hint="--base") if base else None
    weights = parse_weights(weight or [], hint="--weight")
    texts = parse_calibration(calibration or [], hint="--calibration")
    measured_tasks = parse_model_files(task or [], suffix=".jsonl", hint="--task")
    measured_texts = parse_model_files(text or [], suffix=".txt", hint="--text")

    from consolidation.evaluation.gates import Limits
    from consolidation.pipeline import Recipe

    recipe = Recipe(
        family=family,
        registry=registry,
        models=chosen,
        base=original,
        extend=resolve(open_registry(registry, family), extend) if extend else None,
        remove=tuple(remove or ()),
        expert_budget=expert_budget,
        target_kl=target_kl,
        weights=weights,
        exact=frozenset(exact or ()),
        channel=channel,
        calibration=texts,
        tasks=measured_tasks,
        texts=measured_texts,
        limits=Limits(max_kl, max_accuracy_drop, max_perplexity_rise),
    )
    if device_memory is not None:
        recipe = replace(recipe, expert_bytes=_expert_bytes(recipe, device_memory))
    outcome = _run(recipe, dry_run=dry_run, to_stderr=as_json, interruption=context.obj)
    if as_json:
        output.print_json(_facts(recipe, outcome))
    elif outcome.manifest is not None and outcome.release is not None:
        _print_release(recipe, outcome.release, outcome.manifest)


def _expert_bytes(recipe: Recipe, device_memory: int) -> int:
    """What a device has for experts beside everything else. Raises `DoesNotFit`."""
    import torch

    from consolidation.checkpoint import open_checkpoint
    from consolidation.menu import MAX_FORMATS
    from serve_app.engine.memory import expert_memory

    opened = [open_checkpoint(path) for path in recipe.models.values()]
    configs = [checkpoint.config for checkpoint in opened]
    if recipe.extend is not None:
        manifest = open_registry(recipe.registry, recipe.family).read_manifest(recipe.extend)
        left = set(manifest.models) - {*recipe.remove, *recipe.models}
        configs += [manifest.models[name].config for name in sorted(left)]
    return expert_memory(
        configs,
        str(configs[0]["dtype"]),
        device_memory,
        num_formats=MAX_FORMATS,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


def _models(values: list[str], extend: str | None, remove: list[str]) -> dict[str, Path]:
    models = parse_models(values)
    if remove and extend is None:
        raise WrongUse(f"--remove {remove[0]} goes with --extend RELEASE")
    if not models and not remove:
        raise WrongUse("nothing to do: give --model NAME=CHECKPOINT_DIR at least once")
    return models


def _run(recipe: Recipe, *, dry_run: bool, to_stderr: bool, interruption: Interruption) -> Outcome:
    from consolidation.pipeline import consolidate as carry_out

    console = output.err() if to_stderr else output.out()
    with (
        redirect_stdout(sys.stderr),  # Ray says there which of its workers have died.
        _Ray(interruption) as executor,
        output.progress() as show,
    ):

        def print_plan(plan: Plan) -> None:
            with show.paused():
                _print_plan(plan, console)

        return carry_out(
            recipe,
            executor=executor,
            progress=show,
            on_plan=print_plan,
            dry_run=dry_run,
        )


class _Ray:
    """An executor that starts Ray when there is a first task: wrong input is told before that."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self._open = ExitStack()
        self._executor: RayExecutor | None = None

    def map(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        *,
        in_flight: int | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """See `consolidation.executor.Executor.map`."""
        if self._executor is None:
            # What Ray would otherwise print on stderr, between the progress bars.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            from consolidation.ray_tasks import RayExecutor

            self._executor = self._open.enter_context(RayExecutor())
            self._interruption.install()
        return self._executor.map(function, tasks, in_flight=in_flight)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


def _facts(recipe: Recipe, outcome: Outcome) -> dict[str, Any]:
    plan, manifest = outcome.plan, outcome.manifest
    after = manifest.expert_bytes_after if manifest else plan.expert_bytes_after
    return {
        "release": outcome.release,
        "family": recipe.family,
        "channel": recipe.channel if outcome.release else None,
        "models": list(plan.models),
        "expert_bytes_before": plan.expert_bytes_before,
        "expert_bytes_after": after,
        "expert_bytes_one_model": plan.expert_bytes_one_model,
        "experts": plan.num_experts,
        "slots": plan.num_slots,
        "formats": plan.formats(),
        "predicted_kl": dict(plan.predicted_kl or {}),
        "quality": {
            name: quality.model_dump()
            for name, quality in (manifest.quality if manifest else {}).items()
        },
    }


def _print_plan(plan: Plan, console: Console) -> None:
    ratio = plan.expert_bytes_after / plan.expert_bytes_one_model
    slots = " ".join(str(layer.num_slots) for layer in plan.layers)
    rows = {
        "models": ", ".join(plan.models),
        "expert bytes": f"{output.change(plan.expert_bytes_before, plan.expert_bytes_after)}"
        f" ({plan.expert_bytes_before} → {plan.expert_bytes_after})",
        "of one model": f"{ratio:.3f} ×",
        "experts": f"{plan.num_experts} in {plan.num_slots} slots",
        "slots by layer": slots,
    }
    if plan.relative_error is not None:
        rows["weight error"] = f"{plan.relative_error:.4f} of the weights' norm"
    for name, value in rows.items():
        console.print(f"{name:<16}{value}", markup=False)
    for label, count in plan.formats().items():
        console.print(f"{count:>14}  {label}", markup=False)
    for name, kl in (plan.predicted_kl or {}).items():
        console.print(f"{name:<16}{kl:.6f} nats per token expected", markup=False)


def _print_release(recipe: Recipe, release: str, manifest: Manifest) -> None:
    columns = ("model", "KL (nats/token)", "expected", "perplexity", "accuracy", "tokens")
    shown = [True, True, _any(manifest, "predicted_kl"), True, _any(manifest, "accuracy_release")]
    grid = output.table(*(name for name, show in zip(columns, [*shown, True], strict=True) if show))
    for name, quality in sorted(manifest.quality.items()):
        divergence, perplexity = output.quality_cells(quality.model_dump())
        cells = (
            name,
            divergence,
            _number(quality.predicted_kl, ".6f"),
            perplexity,
            f"{_number(quality.accuracy_original, '.3f')} → "
            f"{_number(quality.accuracy_release, '.3f')}",
            str(quality.tokens),
        )
        grid.add_row(*(cell for cell, show in zip(cells, [*shown, True], strict=True) if show))
    out = output.out()
    out.print()
    out.print(grid)
    out.print(f"\nrelease {release}, channel {recipe.channel}")
    report = open_registry(recipe.registry, recipe.family).report_name(release)
    if report is not None:
        out.print(f"report {report}", soft_wrap=True, markup=False)


def _any(manifest: Manifest, field: str) -> bool:
    return any(getattr(one, field) is not None for one in manifest.quality.values())


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)

"""The `consolidate` command: options in, a table out. The work is the consolidation package's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli import output
from serve_app.cli.errors import WrongUse
from serve_app.cli.options import (
    AsJson,
    Channel,
    Family,
    RegistryUrl,
    parse_budget,
    parse_checkpoint,
    parse_divergence,
    parse_models,
)

if TYPE_CHECKING:
    from consolidation.pipeline import Outcome, Recipe

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
Calibration = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", exists=True, dir_okay=False, show_default=False, help=".txt or .jsonl."
    ),
]
MaxKl = Annotated[
    float | None,
    typer.Option(
        metavar="Y",
        parser=parse_divergence,
        show_default=False,
        help="Publish nothing worse, in nats per token.",
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
    channel: Channel = "stable",
    calibration: Calibration = None,
    max_kl: MaxKl = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Build one release from several checkpoints, and publish it."""
    chosen = _models(model or [], extend, remove or [])
    original = parse_checkpoint(base, hint="--base") if base else None

    from consolidation.pipeline import Recipe

    recipe = Recipe(
        family=family,
        registry=registry,
        models=chosen,
        base=original,
        extend=extend,
        remove=tuple(remove or ()),
        expert_budget=expert_budget,
        channel=channel,
        calibration=tuple(calibration or ()),
        max_kl=max_kl,
    )
    outcome = _run(recipe, dry_run=dry_run, interruption=context.obj)
    if as_json:
        output.print_json(_facts(recipe, outcome))
    else:
        _print_outcome(recipe, outcome)


def _models(values: list[str], extend: str | None, remove: list[str]) -> dict[str, Path]:
    models = parse_models(values)
    if remove and extend is None:
        raise WrongUse(f"--remove {remove[0]} goes with --extend RELEASE")
    if not models and not remove:
        raise WrongUse("nothing to do: give --model NAME=CHECKPOINT_DIR at least once")
    return models


def _run(recipe: Recipe, *, dry_run: bool, interruption: Interruption) -> Outcome:
    from consolidation.pipeline import consolidate as carry_out
    from consolidation.ray_tasks import RayExecutor

    with RayExecutor() as executor:
        interruption.install()
        with output.progress() as show:
            return carry_out(recipe, executor=executor, progress=show, dry_run=dry_run)


def _facts(recipe: Recipe, outcome: Outcome) -> dict[str, Any]:
    return {}


def _print_outcome(recipe: Recipe, outcome: Outcome) -> None:
    return

"""What `consolidate` prints about a plan and a release: tables, and facts for JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from representation.decimals import plain
from serve_app.cli import output
from serve_app.units import size

if TYPE_CHECKING:
    from rich.console import Console

    from consolidation.pipeline import Consolidated, Recipe
    from consolidation.plan.values import Plan
    from consolidation.release import Manifest, Model, Quality


def facts(recipe: Recipe, outcome: Consolidated) -> dict[str, Any]:
    """Everything known, under stable names."""
    from consolidation.release.stand_ins import stood_in

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
        "step_bytes": manifest.step_bytes if manifest else plan.step_bytes,
        "predicted_kl": dict(plan.predicted_kl or {}),
        "noise_floor": [asdict(found) for found in (stood_in(manifest) if manifest else ())],
        "quality": {
            name: quality.model_dump()
            for name, quality in (manifest.quality if manifest else {}).items()
        },
    }


def print_plan(plan: Plan, console: Console) -> None:
    """The planned size and form of the experts, and what each model is expected to lose."""
    ratio = plan.expert_bytes_after / plan.expert_bytes_one_model
    rows = {
        "models": ", ".join(plan.models),
        "expert bytes": f"{output.change(plan.expert_bytes_before, plan.expert_bytes_after)}"
        f" ({plan.expert_bytes_before} → {plan.expert_bytes_after})",
        "of one model": f"{ratio:.3f} ×",
        "experts": f"{plan.num_experts} in {plan.num_slots} slots",
        "slots by layer": " ".join(str(layer.num_slots) for layer in plan.layers),
        "read in a step": f"{size(plan.step_bytes)} of experts, by "
        f"{output.decode_step(plan.decode_step, len(plan.models))}",
    }
    if plan.relative_error is not None:
        rows["weight error"] = f"{plan.relative_error:.4f} of the weights' norm"
    for name, value in rows.items():
        console.print(f"{name:<16}{value}", markup=False)
    _print_formats(plan, console)
    if plan.predicted_kl:
        grid = output.table("model", "expected KL (nats/token)")
        for name, kl in sorted(plan.predicted_kl.items()):
            grid.add_row(name, plain(kl))
        console.print()
        console.print(grid)


def print_trial(plan: Plan, console: Console) -> None:
    """One line about a plan that is tried."""
    ratio = plan.expert_bytes_after / plan.expert_bytes_one_model
    expected = plan.predicted_kl or {}
    words = f"trying {size(plan.expert_bytes_after)}, {ratio:.3f} × one model"
    if expected:
        mean = sum(expected.values()) / len(expected)
        words += f", expected KL {plain(mean)}"
    console.print(words, markup=False)


def _print_formats(plan: Plan, console: Console) -> None:
    """How many experts have a slot, or a part of one, of each format; and residuals of each."""
    slots: Counter[str] = Counter()
    residuals: Counter[str] = Counter()
    for label, count in plan.formats().items():
        slot, *added = label.split(" + ")
        for part in slot.split(" / "):
            slots[part] += count
        for residual in added:
            residuals[residual] += count
    for name, found in (("slots", slots), ("residuals", residuals)):
        if found:
            grid = output.table(name, "experts")
            for label, count in sorted(found.items(), key=lambda item: (-item[1], item[0])):
                grid.add_row(label, str(count))
            console.print()
            console.print(grid)


def print_release(release: str, channel: str, manifest: Manifest, report: str | None) -> None:
    """What was measured for each model, and where the release is. report: address of its page."""
    from consolidation.release.stand_ins import stood_in

    rows = {
        name: {**_cells(quality), "adapter": _of_adapter(manifest.models[name])}
        for name, quality in sorted(manifest.quality.items())
    }
    columns = [
        column for column in _COLUMNS if any(cells[column] is not None for cells in rows.values())
    ]
    grid = output.table("model", *columns)
    for name, cells in rows.items():
        grid.add_row(name, *(cells[column] or "–" for column in columns))
    out = output.out()
    out.print()
    out.print(grid)
    for found in stood_in(manifest):
        out.print(str(found), soft_wrap=True, markup=False)
    out.print(f"\nrelease {release}, channel {channel}")
    if report is not None:
        out.print(f"report {report}", soft_wrap=True, markup=False)


def _of_adapter(model: Model) -> str | None:
    """What became of a model's adapter; None if it has none."""
    source = model.source
    if source.adapter is None:
        return None
    has_factors = any(own for row in model.residual_map for own in row)
    parts = ["factors"] if has_factors else []
    if source.merged:
        parts.append(f"{source.merged} tensor{'s' if source.merged > 1 else ''} merged")
    return ", ".join(parts) or "merged"


_COLUMNS = (
    "KL, nats",
    "expected",
    "retained",
    "perplexity",
    "accuracy",
    "tokens",
    "adapter",
)


def _cells(quality: Quality) -> dict[str, str | None]:
    """By column; None if not measured."""
    divergence, perplexity = output.quality_cells(quality.model_dump())
    expected, kept = quality.predicted_kl, quality.retained
    accuracy = None
    if quality.accuracy_original is not None and quality.accuracy_release is not None:
        accuracy = f"{quality.accuracy_original:.3f} → {quality.accuracy_release:.3f}"
    values = (
        divergence,
        None if expected is None else plain(expected),
        None if kept is None else f"{100 * kept:.1f} %",
        perplexity,
        accuracy,
        str(quality.tokens),
    )
    return dict(zip(_COLUMNS, values, strict=False))

"""The `evaluate` command: how good releases are, compared with other methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli import output
from serve_app.cli.computing.computing_device import ComputingDevice, computing_device
from serve_app.cli.errors import WrongUse
from serve_app.cli.options import AsJson, Base, Family, RegistryUrl, Tasks, Texts
from serve_app.cli.parsing import parse_model_files, parse_models, parse_source
from serve_app.cli.progress import showing
from serve_app.cli.recipes.recipe_options import ReleasesOrRecipe, names_in_errors
from serve_app.cli.releases import open_registry, resolve
from serve_app.units import size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from consolidation.checkpoints.checkpoint import Checkpoint
    from consolidation.evaluation.measures import MethodScore
    from consolidation.evaluation.methods import Method
    from consolidation.release import Registry, ReleaseReader
    from consolidation.sources.model_source import ModelSource

Originals = Annotated[
    list[str] | None,
    typer.Option(
        "--original",
        metavar="MODEL=SOURCE",
        show_default=False,
        help="What a model was made from: SOURCE[@REVISION][+ADAPTER], as for `consolidate`.",
    ),
]
Baseline = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", show_default=False, help="Also measure this method."),
]
AllBaselines = Annotated[bool, typer.Option("--baselines", help="Also measure all other methods.")]
Calibration = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        show_default=False,
        help="Text that other methods may use. Not the text for scoring.",
    ),
]
NumItems = Annotated[int, typer.Option("--items", min=1, help="Most questions to use per task.")]
NumWindows = Annotated[int, typer.Option("--windows", min=1, help="Most windows to use per text.")]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.html",
        dir_okay=False,
        show_default=False,
        help="Write an HTML page with plots.",
    ),
]


def evaluate(
    context: typer.Context,
    family: Family,
    registry: RegistryUrl,
    release: ReleasesOrRecipe = None,
    task: Tasks = None,
    text: Texts = None,
    original: Originals = None,
    base: Base = None,
    baseline: Baseline = None,
    baselines: AllBaselines = False,
    calibration: Calibration = None,
    items: NumItems = 200,
    windows: NumWindows = 16,
    report: Report = None,
    device: ComputingDevice = "cpu",
    as_json: AsJson = False,
) -> None:
    """Compare releases with the original models, and with other methods."""
    computing = computing_device(device)
    hint = names_in_errors(context)
    tasks = parse_model_files(task or [], suffixes=[".jsonl"], hint=hint("task"))
    texts = parse_model_files(text or [], suffixes=[".txt", ".jsonl"], hint=hint("text"))
    if not tasks and not texts:
        raise WrongUse("nothing to measure: give --task MODEL=FILE.jsonl or --text MODEL=FILE")
    originals = parse_models(original or [], hint=hint("original"))
    base_source = parse_source(base, hint=hint("base")) if base else None
    names = _baseline_names(baseline or [], baselines, has_base=base is not None)
    _check_report(report)

    from consolidation.evaluation import data, methods
    from consolidation.evaluation.evaluate import evaluate as measure

    files = data.read_files(tasks, texts)
    readers = _readers(open_registry(registry, family), release or [])
    for reader in readers:
        whose = f"release {reader.id}"
        data.check_models(files, originals, reader.models, whose)
        if names:
            data.check_all_originals(originals, reader.models, whose)
    encode = partial(data.encode, files, items=items, windows=windows)
    check = partial(_check_headers, readers, encode)
    checkpoints, base_checkpoint = _opened(originals, base_source, check)
    encoded = encode(checkpoints)
    for reader in readers:
        methods.check_originals(reader.manifest, checkpoints)
    others = _make_baselines(names, checkpoints, base_checkpoint, calibration or [])
    with showing.progress() as show:
        releases = [methods.ReleaseMethod(reader, computing) for reader in readers]
        all_methods = [*releases, *others]
        scores = measure(
            checkpoints,
            encoded,
            all_methods,
            base=base_checkpoint,
            device=computing,
            progress=show,
        )
    if report is not None:
        _write_report(report, readers, scores)
    if as_json:
        told = {
            "family": family,
            "releases": [reader.id for reader in readers],
            "items": items,
            "windows": windows,
            "methods": [_facts(score) for score in scores],
        }
        output.print_json(told)
    else:
        _print_scores(scores, len(readers), output.out())


def _check_headers(
    readers: Sequence[ReleaseReader],
    encode: Callable[[Mapping[str, Checkpoint]], object],
    found: Mapping[str, Checkpoint],
) -> None:
    """Refuse what headers and tokenizers tell, before weights are fetched."""
    from consolidation.evaluation.methods import check_tensors

    for reader in readers:
        check_tensors(reader.manifest, found)
    encode(found)


def _opened(
    originals: Mapping[str, ModelSource],
    base: ModelSource | None,
    check: Callable[[Mapping[str, Checkpoint]], object],
) -> tuple[dict[str, Checkpoint], Checkpoint | None]:
    from consolidation.sources.bringing import bring

    with showing.progress() as show:
        files, base_files = bring(originals, base, show, check)
    opened = {name: found.open() for name, found in files.items()}
    return opened, base_files.open() if base_files is not None else None


def _readers(registry: Registry, wanted: Sequence[str]) -> list[ReleaseReader]:
    """Each release once; by default, the one that `resolve` chooses."""
    from consolidation.release import ReleaseReader

    ids = dict.fromkeys(resolve(registry, one) for one in wanted or (None,))
    return [ReleaseReader(registry, found) for found in ids]


def _check_report(path: Path | None) -> None:
    """Raise `WrongUse` if the file cannot be written, before a long measurement."""
    if path is not None and not path.absolute().parent.is_dir():
        raise WrongUse(f"--report {path}: there is no directory {path.absolute().parent}")


def _write_report(
    path: Path, readers: Sequence[ReleaseReader], scores: Sequence[MethodScore]
) -> None:
    from consolidation.report.page import render_report

    own = [(reader.manifest, score) for reader, score in zip(readers, scores, strict=False)]
    path.write_text(render_report(own, scores[len(readers) :]), encoding="utf-8")


def _baseline_names(given: list[str], everything: bool, *, has_base: bool) -> tuple[str, ...]:
    if not given and not everything:
        return ()
    from consolidation.evaluation.baselines.catalogue import NAMES, check_names, possible_names

    check_names(given, has_base=has_base)
    if not everything:
        return tuple(given)
    names = possible_names(has_base=has_base)
    left_out = ", ".join(name for name in NAMES if name not in names)
    if left_out:
        output.err().print(f"without --base, there is no {left_out}", soft_wrap=True)
    return names


def _make_baselines(
    names: Sequence[str],
    checkpoints: Mapping[str, Checkpoint],
    base: Checkpoint | None,
    calibration: Sequence[Path],
) -> tuple[Method, ...]:
    if not names:
        return ()
    from consolidation.evaluation.baselines.catalogue import make_baselines
    from consolidation.evaluation.baselines.subjects import Subjects
    from consolidation.statistics.text import read_calibration

    subjects = Subjects(checkpoints, base)
    return make_baselines(names, subjects, read_calibration(calibration))


def _facts(score: MethodScore) -> dict[str, Any]:
    models = {
        one.model: {**dataclasses.asdict(one), "retained": one.retained} for one in score.models
    }
    for one in models.values():
        del one["model"]
    return {
        "method": score.method,
        "expert_bytes": score.expert_bytes,
        "bytes_of_one_model": score.bytes_of_one_model,
        "mean_kl": score.mean_kl,
        "models": models,
    }


def _print_scores(scores: Sequence[MethodScore], num_releases: int, console: Console) -> None:
    for score in scores[:num_releases]:
        console.print(
            f"{score.method}: {size(score.expert_bytes)}, {score.bytes_of_one_model:.3f} × "
            f"one model's experts, mean KL {_kl(score.mean_kl)} nats per token",
            soft_wrap=True,
        )
        console.print(_model_table(score))
        console.print(_spread_table(score))
        console.print()
    if len(scores) > 1:
        console.print(_method_table(scores))


def _model_table(score: MethodScore) -> Table:
    """One release, with a row for each model; tokens and routers are shares that agree."""
    grid = output.table("model", "KL", "predicted", "perplexity", "accuracy", "tokens", "routers")
    for one in score.models:
        routers = sum(one.router_agreement) / len(one.router_agreement)
        grid.add_row(
            one.model,
            _kl(one.kl),
            _kl(one.predicted_kl),
            _pair(one.perplexity_original, one.perplexity, 2),
            _pair(one.accuracy_original, one.accuracy, 3),
            _share(one.token_agreement),
            _share(routers),
        )
    return grid


def _spread_table(score: MethodScore) -> Table:
    """One release: what models keep of their effect, and how what they lose lies over tokens."""
    grid = output.table("model", "retained", "KL of base", "KL, 99 %", "99.9 %", "RMS Δp")
    for one in score.models:
        grid.add_row(
            one.model,
            _share(one.retained, 2),
            _kl(one.kl_base),
            _kl(one.kl_99),
            _kl(one.kl_999),
            _share(one.rms_dp, 3),
        )
    return grid


def _method_table(scores: Sequence[MethodScore]) -> Table:
    """KL of every method, fewest bytes first; bytes in units of one model's experts."""
    names = [one.model for one in scores[0].models]
    grid = output.table("method", "bytes", "mean KL", *names)
    for score in sorted(scores, key=lambda one: (one.expert_bytes, one.mean_kl)):
        grid.add_row(
            score.method,
            f"{score.bytes_of_one_model:.3f}",
            _kl(score.mean_kl),
            *(_kl(one.kl) for one in score.models),
        )
    return grid


def _kl(value: float | None) -> str:
    return "–" if value is None else f"{value:#.3g}"


def _share(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _pair(before: float | None, after: float | None, digits: int) -> str:
    if before is None or after is None:
        return "–"
    return f"{before:.{digits}f} → {after:.{digits}f}"

"""Statistics are gathered once for a model and a text, and found again by every later run."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.arithmetic.metric import Metric, Samples
from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.compare.layer import compare_layer
from consolidation.errors import Refused, RunFailed
from consolidation.pipeline import Recipe, consolidate
from consolidation.release.storage import open_storage
from consolidation.run.executor import LocalExecutor
from consolidation.run.kept_results import KEPT_FOR
from consolidation.sources.local_sources import local_models
from consolidation.statistics import stored
from consolidation.statistics.gathering import gather
from consolidation.statistics.stored import (
    CODE_VERSION,
    DIRECTORY,
    ModelStatistics,
    StatisticsStore,
    open_statistics,
)
from tests.consolidation.families import write_family
from tests.consolidation.running import Paths, files
from tests.consolidation.statistics.test_gathering import task_of
from tests.support.checkpoints import write_checkpoint

NOW = datetime(2026, 11, 29, tzinfo=UTC)
OF_VERSION: dict[int, tuple[float, ...]] = {5: (1.6664, 961.986, 32303.1, 179.504)}
"""Of the fixed model below: sums over all matrices of gains, moments, inputs and gradients."""


class Counts(LocalExecutor):
    """Counts how many models it gathered statistics of, and is interrupted after that."""

    def __init__(self) -> None:
        self.gathered = 0

    def map(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Any],
        **options: Any,
    ) -> Iterator[tuple[int, Any]]:
        if function is compare_layer:
            raise KeyboardInterrupt
        self.gathered += len(tasks) if function is gather else 0
        return super().map(function, tasks, **options)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    written = write_family(tmp_path_factory.mktemp("family"), num_hidden_layers=1)
    return {name: written[name] for name in ("one", "two")}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 10)
    return path


@pytest.fixture
def gathers(tmp_path: Path, text: Path) -> Callable[..., int]:
    """Runs a recipe until it compares. -> how many models it gathered statistics of"""

    def run(models: Paths, budget: float, *, dry_run: bool = False, **fields: Any) -> int:
        counts = Counts()
        recipe = Recipe(
            "fam",
            str(tmp_path / "r"),
            local_models(models),
            expert_budget=budget,
            calibration=fields.pop("calibration", ((None, text),)),
            **fields,
        )
        with pytest.raises(KeyboardInterrupt):
            consolidate(recipe, executor=counts, dry_run=dry_run)
        return counts.gathered

    return run


def test_another_budget_and_another_place_find_what_was_gathered(
    models: Paths, gathers: Callable[..., int], tmp_path: Path
) -> None:
    assert gathers(models, 1.0) == 2
    copied = {f"copy-{name}": tmp_path / f"c-{name}" for name in models}
    for source, path in zip(models.values(), copied.values(), strict=True):
        shutil.copytree(source, path)
    assert gathers(models, 0.75) == 0
    assert gathers(copied, 1.25) == 0


def test_another_text_and_another_model_are_gathered(
    models: Paths, gathers: Callable[..., int], tmp_path: Path
) -> None:
    assert gathers({"one": models["one"]}, 1.0) == 1
    assert gathers(models, 1.0) == 1
    other = tmp_path / "other.txt"
    other.write_text("Five wizards quickly jumped over the box of dozen liquor jugs. " * 10)
    assert gathers(models, 1.0, calibration=((None, other),)) == 2


def test_a_dry_run_finds_what_was_gathered_and_changes_nothing(
    models: Paths, gathers: Callable[..., int], tmp_path: Path
) -> None:
    assert gathers({"one": models["one"]}, 1.0) == 1
    before = {name: (tmp_path / "r" / name).read_bytes() for name in files(tmp_path / "r")}
    assert gathers(models, 1.0, dry_run=True) == 1
    assert before == {name: (tmp_path / "r" / name).read_bytes() for name in files(tmp_path / "r")}


def test_a_lost_file_is_gathered_again(
    models: Paths, gathers: Callable[..., int], tmp_path: Path
) -> None:
    assert gathers(models, 1.0) == 2
    lost = next((tmp_path / "r").rglob("*/0/*.bin"))
    lost.unlink()
    assert gathers(models, 0.9) == 1
    assert lost.exists()


def test_statistics_that_no_run_used_for_long_are_removed(tmp_path: Path) -> None:
    url = str(tmp_path)
    for model in ("a", "b"):
        store = open_statistics(url, {model: f"key-{model}"}, NOW)
        store.models[model].finish({"model": model, "probes": []}, NOW)
    later = NOW + KEPT_FOR
    open_statistics(url, {"a": "key-a"}, later)
    assert open_storage(url).names(DIRECTORY) == ["key-a", "key-b"]
    open_statistics(url, {"a": "key-a"}, later + timedelta(seconds=1))
    assert open_storage(url).names(DIRECTORY) == ["key-a"]


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, StatisticsStore]:
    """A fixed model, and its statistics on fixed text."""
    root = tmp_path_factory.mktemp("fixed")
    path = write_checkpoint(root / "m", "mixtral", tokenizer=False, num_hidden_layers=1)
    checkpoint = open_checkpoint(path)
    store = StatisticsStore({"m": ModelStatistics(str(root), "work")})
    gather(task_of(checkpoint, store))
    return checkpoint, store


def test_a_damaged_file_is_named(fixed: tuple[Checkpoint, StatisticsStore]) -> None:
    _, store = fixed
    there = store.models["m"]
    path = there.path(0, 1)
    data = bytearray(there.storage.read(path) or b"")
    data[-1] ^= 1
    there.storage.write(path.replace("/0/1.", "/0/9."), bytes(data))
    with pytest.raises(RunFailed, match=r"layer 0, expert 9 are damaged: remove .*/work and run"):
        store.metric("m", 0, 9, "down_proj")


@pytest.mark.parametrize(
    ("most_bytes", "asked", "wanted"),
    [(25, (0, 1, 0, 1, 2, 1, 2, 0), [0, 1, 2, 0]), (5, (0, 0, 1, 0), [0, 1, 0])],
)
def test_files_read_last_stay_in_memory_up_to_some_bytes(
    monkeypatch: pytest.MonkeyPatch, most_bytes: int, asked: Sequence[int], wanted: list[int]
) -> None:
    read = []

    def ten_bytes(model: str, there: object, layer: int, index: int) -> dict[str, torch.Tensor]:
        read.append(index)
        return {"gain": torch.zeros(10, dtype=torch.uint8)}

    monkeypatch.setattr(stored, "_read", ten_bytes)
    recent = stored._Recent(most_bytes)
    for index in asked:
        recent.read("m", ModelStatistics("memory://", "m"), 0, index)
    assert read == wanted


def test_the_code_version_is_raised_when_statistics_change(
    fixed: tuple[Checkpoint, StatisticsStore],
) -> None:
    """Where this fails, raise `CODE_VERSION` and give the new sums beside it in `OF_VERSION`."""
    checkpoint, store = fixed
    (source,) = checkpoint.experts
    found = torch.zeros(4, dtype=torch.float64)
    for index in range(source.num_experts):
        for name in source.shape.matrices:
            metric = store.metric("m", 0, index, name)
            assert metric.samples is not None
            parts = (metric.gain, metric.moments, metric.samples.inputs, metric.samples.gradients)
            found += torch.tensor([float(part.abs().sum()) for part in parts])
    assert found.tolist() == pytest.approx(OF_VERSION[CODE_VERSION], rel=1e-3)


def test_a_metric_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    store = StatisticsStore({"m": ModelStatistics(str(tmp_path), "m")})
    samples = Samples(torch.ones(1, 4), torch.ones(1, 4), 0.5)
    metric = Metric(torch.ones(4), torch.full((1, 4, 4), torch.inf), 4, samples)
    with pytest.raises(Refused, match=r"model 'm', layer 3, expert 5: up\.moments .* not finite"):
        store.keep("m", 3, 5, {"up": metric})
    assert not list(tmp_path.iterdir())

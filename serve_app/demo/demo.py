"""`expertpool demo`: the whole job on a small family made on the spot. Each part is another file.

make the family → consolidate → serve → ask → compare.
"""

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from transformers.utils import logging as transformers_logging

from consolidation.pipeline import Consolidated, Recipe, consolidate
from consolidation.pipeline import Progress as Stage
from consolidation.release import Manifest
from consolidation.run.ray_start import patient_start
from consolidation.sources.local_sources import local_models, local_source
from serve_app.config import ServeConfig, UserConfig
from serve_app.demo import ask, skills, table
from serve_app.demo.cache import DemoFamily, cache_root, cached_family
from serve_app.demo.making import make_family
from serve_app.serving.run import endpoint, free_port

FAMILY = "demo"
CHANNEL = "stable"
PORT = 8000
BUDGET = 0.5
"""Expert bytes of the release, in units of one model's."""


def run(once: bool) -> int:
    """The whole demo. Returns 0, or 1 if an answer of the release differs from the original's or is
    wrong. Without `once`, serves until it is stopped."""
    began = time.monotonic()
    console, status = Console(highlight=False), Console(stderr=True, highlight=False)
    transformers_logging.disable_progress_bar()
    with _progress(status) as show, tempfile.TemporaryDirectory(prefix="expertpool-") as place:
        family = cached_family(cache_root(), lambda directory: make_family(directory, show))
        if family.is_new:
            _print_made(family, status)
        outcome = _consolidate(family, Path(place), show)
        show.close()
        manifest = outcome.manifest
        assert manifest is not None
        status.print("starting the endpoint and asking every model …")
        config = ServeConfig(registry=str(Path(place) / "registry"), family=FAMILY)
        user, port = UserConfig(channel=CHANNEL), free_port(PORT)
        with endpoint(config, user, port, starting=patient_start) as address:
            ask.wait_until_ready(address)
            answers = _answers(family, address)
            sizes = _sizes(manifest, address)
            divergences = {name: one.kl for name, one in manifest.quality.items()}
            console.print(table.report(answers, divergences, _how(family), sizes))
            status.print(f"release {outcome.release}, {time.monotonic() - began:.0f} s in all")
            is_kept = all(found.is_same and found.is_right for found in answers)
            if not is_kept:
                status.print("[bold red]the release does not answer like the originals")
            if once or not is_kept:
                return 0 if is_kept else 1
            _keep_serving(console, address, answers[-1].question)
    return 0


def _answers(family: DemoFamily, address: str) -> list[table.Answers]:
    """Asks every model about every word: the release over HTTP, the originals by generate()."""
    names = [skill.name for skill in skills.SKILLS]
    questions = [ask.Question(name, word) for name in names for word in skills.HELD_OUT]
    released = ask.ask_endpoint(address, questions)
    originals: dict[ask.Question, str] = {}
    for name in names:
        answers = ask.ask_original(family.models[name], skills.HELD_OUT)
        for word, answer in zip(skills.HELD_OUT, answers, strict=True):
            originals[ask.Question(name, word)] = answer
    return [table.Answers(one, originals[one], released[one]) for one in questions]


def _consolidate(family: DemoFamily, place: Path, show: "_Shown") -> Consolidated:
    """Builds the release with Ray tasks, like `expertpool consolidate`, and moves the channel."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from consolidation.run.ray_tasks import RayExecutor

    recipe = Recipe(
        FAMILY,
        str(place / "registry"),
        local_models(family.models),
        base=local_source(family.models["base"]),
        expert_budget=BUDGET,
        channel=CHANNEL,
        calibration=_calibration(place),
    )

    def on_progress(now: Stage) -> None:
        show(now.stage, now.done / max(1, now.total))

    with _own_signals(), RayExecutor() as executor:
        return consolidate(recipe, executor=executor, progress=on_progress)


def _calibration(place: Path) -> tuple[tuple[str, Path], ...]:
    """For each model, its skill's answers to words that are not asked later."""
    files = []
    for skill in skills.SKILLS:
        lines = [
            json.dumps({"prompt": skills.prompt(word), "completion": skill.answer(word)})
            for word in skills.CHECK
        ]
        path = place / f"{skill.name}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        files.append((skill.name, path))
    return tuple(files)


def _sizes(manifest: Manifest, address: str) -> table.ExpertBytes:
    """Sizes of files from the manifest, and of the pool from the engine's own metric."""
    pool = round(ask.gauge(address, "expertpool_pool_bytes"))
    before, after = manifest.expert_bytes_before, manifest.expert_bytes_after
    return table.ExpertBytes(
        num_models=len(manifest.models),
        before=before,
        after=after,
        # An engine that must compute in float32 holds each stored byte twice.
        pool_before=before * max(1, round(pool / after)),
        pool=pool,
        budget=BUDGET,
    )


def _keep_serving(console: Console, address: str, question: ask.Question) -> None:
    console.print(f"\nServing on {address} until Ctrl-C. Try:")
    table.print_plain(console, table.curl_line(address, question))
    while True:
        signal.pause()


def _how(family: DemoFamily) -> dict[str, str]:
    """How each model was made: `low-rank, rank 8`."""
    return {
        one["model"]: f"{one['method']}, rank {one['rank']}" if one["rank"] else one["method"]
        for one in family.made
    }


def _print_made(family: DemoFamily, status: Console) -> None:
    how = _how(family)
    for one in family.made:
        status.print(
            f"{one['model']:<8} {how[one['model']]:<16} {one['steps']:>5} steps "
            f"{one['seconds']:>6.1f} s ({one['cpu_seconds']:.1f} s of CPU)"
        )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restores the handlers of SIGTERM and Ctrl-C, which Ray replaces."""
    before: Mapping[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Shown:
    """Progress bars, one for each stage. Call it with the share that is done."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self.close: Callable[[], None] = bars.stop

    def __call__(self, name: str, share: float) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=1.0)
        self._bars.update(self._tasks[name], completed=share)


@contextmanager
def _progress(status: Console) -> Iterator[_Shown]:
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=32),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=status, redirect_stdout=False) as bars:
        yield _Shown(bars)

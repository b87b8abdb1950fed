"""What each stage of consolidating takes on random checkpoints: seconds, and peak memory.

The run has a process of its own, which this one watches together with all processes below it.
Memory means what they hold by themselves (anonymous and shared pages): pages of checkpoint files
do not count, since the kernel can drop them at any time.
"""

import multiprocessing
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from consolidation.arithmetic.on_device import CPU
from consolidation.errors import RunFailed
from consolidation.pipeline import consolidate
from consolidation.recipe import Recipe
from consolidation.run.executor import Executor, LocalExecutor, Progress
from consolidation.run.ray_tasks import RayExecutor
from consolidation.sources.local_sources import local_models
from consolidation.statistics import windows
from serve_app.bench.consolidate.stage_watch import Watch
from serve_app.bench.result.measured import OnProgress
from serve_app.bench.weights.random_checkpoint import write_base, write_tuned

READ = "read"
"""The stage before the run: reads every byte of the checkpoint files, and keeps nothing."""
READ_BYTES = 2**24
STATED_BYTES_S = 3e9
"""What targets take for the rate at which a page cache is read, in bytes a second."""
SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Subject:
    """Random checkpoints of one family: a base, and fine-tunes of it.

    config: of each model.   device: that consolidates them.
    """

    config: Mapping[str, Any]
    num_models: int
    device: torch.device = CPU


def measured_run(
    subject: Subject,
    budget: float,
    cores: int,
    on_progress: OnProgress = lambda *_: None,
) -> dict[str, Any]:
    """All of `bench consolidate`, in a temporary directory: every stage, as plain values.

    budget: expert bytes over one model's.   cores: with 1, tasks run one after another in one
    process of one thread, otherwise as Ray tasks.   Raises: RunFailed if the run fails.
    """
    with tempfile.TemporaryDirectory(prefix="expertpool-bench-") as place:
        directory = Path(place)
        models = write_family(directory / "models", subject, on_progress)
        write_text(directory / "text.txt")
        return measure(models, directory, budget, cores, on_progress, device=subject.device)


def write_family(
    directory: Path, subject: Subject, on_progress: OnProgress = lambda *_: None
) -> dict[str, Path]:
    """Write the models m0, the base, and m1, … -> their directories, by name"""
    directory.mkdir()
    paths = {f"m{number}": directory / f"m{number}" for number in range(subject.num_models)}
    base, *tuned = paths.values()
    write_base(base, subject.config, 0, on_progress)
    for seed, path in enumerate(tuned, start=1):
        write_tuned(path, base, seed, on_progress)
    return paths


def write_text(path: Path) -> None:
    """Write calibration text with as many tokens as are used of any text, a byte each."""
    default = (Path(windows.__file__).parent / "data" / "calibration.txt").read_bytes()
    path.write_bytes(default * -(-2 * windows.MAX_TOKENS // len(default)))


def measure(
    models: Mapping[str, Path],
    directory: Path,
    budget: float,
    cores: int,
    on_progress: OnProgress = lambda *_: None,
    most_bytes: int | None = None,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Measure reading, and then every stage of a run on `directory`/text.txt. -> plain values

    most_bytes: what all processes may hold together.   Raises: RunFailed if the run fails, or holds
    more; then it is ended.
    """
    recipe = Recipe(
        family="bench",
        registry=str(directory / "registry"),
        models=local_models(models),
        expert_budget=budget,
        calibration=((None, directory / "text.txt"),),
        device=device,
    )
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(recipe, list(models.values()), cores, there))
    process.start()
    there.close()
    watch = Watch(process.pid or 0)
    try:
        while True:
            if here.poll(SAMPLE_S):
                now: Progress = here.recv()
                watch.note(now.stage)
                if now.total:
                    on_progress(now.stage, now.done, now.total, now.num_bytes)
            elif most_bytes is not None and watch.sample() > most_bytes:
                raise RunFailed(f"{watch.stages[-1].name} held more than {most_bytes} bytes")
            else:
                watch.sample()
    except EOFError:
        process.join()
    finally:
        process.kill()  # Ray's processes end with the one that started them.
        process.join()
    if process.exitcode != 0:
        raise RunFailed(f"the measured run ended with exit code {process.exitcode}")
    num_bytes = sum(path.stat().st_size for path in _files(models.values()))
    return {
        "checkpoint_bytes": num_bytes,
        "models": len(models),
        "cores": cores,
        "device": str(device),
        "expert_budget": budget,
        **_facts(watch, num_bytes),
    }


def _facts(watch: Watch, num_bytes: int) -> dict[str, Any]:
    """The stages, and their sum over the time of reading once."""
    reading, *stages = [stage for stage in watch.stages if stage.name]
    wall_s = sum(stage.wall_s for stage in stages)
    return {
        "stages": [asdict(stage) for stage in (reading, *stages)],
        "start_s": watch.stages[0].wall_s,
        "wall_s": wall_s,
        "bytes_per_s": num_bytes / wall_s,
        "start_bytes": watch.start_bytes,
        "peak_bytes": watch.start_bytes + max(stage.memory_bytes for stage in stages),
        "over_read": wall_s / reading.wall_s,
        "over_stated_read": wall_s / (num_bytes / STATED_BYTES_S),
    }


def _run(recipe: Recipe, directories: Sequence[Path], cores: int, notes: Any) -> None:
    """The measured process. Tells of its stages through `notes`; "" is what counts for none."""

    def note(stage: str) -> None:
        notes.send(Progress(stage, 0, 0))

    with ExitStack() as stack:
        executor: Executor = LocalExecutor()
        if cores == 1:
            torch.set_num_threads(1)
        else:
            executor = stack.enter_context(
                RayExecutor(in_flight=cores, only_gpu=recipe.device.index)
            )
            recipe = replace(recipe, device=torch.device(recipe.device.type))
            list(executor.map(_ready, range(cores)))  # at once, each in a worker of its own
        _read(directories)  # into the page cache, if it is not there
        note(READ)
        _read(directories)
        note("open")
        consolidate(recipe, executor=executor, progress=notes.send)
        note("")


def _ready(_: int) -> None:
    """A task for a worker that is to have imported what all tasks need, which this file does."""


def _read(directories: Iterable[Path]) -> None:
    buffer = bytearray(READ_BYTES)
    for path in _files(directories):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _files(directories: Iterable[Path]) -> list[Path]:
    return [file for path in directories for file in sorted(path.glob("*.safetensors"))]

"""What each stage of consolidating takes on random checkpoints: seconds, and peak memory.

Seconds are compared with those of reading the same files. The tasks run one after another in one
process. Memory means anonymous memory: the kernel can drop mapped pages of checkpoint files at any
time, so they are reported separately.
"""

import ctypes
import gc
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from consolidation.errors import RunFailed
from consolidation.pipeline import consolidate
from consolidation.recipe import Recipe
from consolidation.run.executor import LocalExecutor, Progress
from consolidation.statistics import text
from consolidation.statistics.scoring import quiet_transformers

SAMPLE_S = 0.005
READ = "read"
"""The stage before the run: reads every byte of the checkpoint files once and keeps nothing."""
READ_BYTES = 2**24
WITHOUT_TASKS = {"compare": "plan"}
"""What happens after the last task of a stage, until the next stage begins."""
CALIBRATION = Path(text.__file__).parent / "data" / "calibration.txt"


@dataclass(frozen=True, slots=True)
class FamilyShape:
    """Random Mixtral checkpoints to consolidate, in bfloat16."""

    num_models: int
    num_layers: int
    num_experts: int
    hidden_size: int
    intermediate_size: int

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer's experts of all models: reading may hold these plus a constant."""
        one = 3 * self.hidden_size * self.intermediate_size * 2
        return self.num_models * self.num_experts * one


@dataclass(slots=True)
class Stage:
    """What a stage took. Memory is the peak beyond what the process held before, in bytes.

    wall_s, processor_s: seconds by the clock, and of all threads.   anonymous_bytes: its own.
    mapped_bytes: pages of files.
    """

    name: str
    wall_s: float = 0.0
    processor_s: float = 0.0
    anonymous_bytes: int = 0
    mapped_bytes: int = 0


def footprint(shape: FamilyShape, budget: float) -> dict[str, Any]:
    """All of `bench consolidate`, in a temporary directory: bytes, and every stage as plain values.

    budget: expert bytes over one model's.   Raises: RunFailed when the run does not end well.
    """
    with tempfile.TemporaryDirectory(prefix="expertpool-bench-") as directory:
        paths = write_checkpoints(Path(directory), shape)
        files = [file for path in paths.values() for file in path.glob("*.safetensors")]
        total = sum(file.stat().st_size for file in files)
        stages = measure(paths, Path(directory) / "registry", budget)
    return {
        "checkpoint_bytes": total,
        "model_bytes": total // shape.num_models,
        "layer_bytes": shape.layer_bytes,
        "stages": [asdict(stage) for stage in stages],
    }


def write_checkpoints(directory: Path, shape: FamilyShape) -> dict[str, Path]:
    """Random checkpoints by name, with small differences from a common base."""
    config = AutoConfig.for_model(
        "mixtral",
        vocab_size=1024,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_local_experts=shape.num_experts,
        max_position_embeddings=1024,
    )
    paths = {}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for number in range(shape.num_models):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.002)
        paths[f"m{number}"] = directory / f"m{number}"
        with quiet_transformers():
            model.save_pretrained(paths[f"m{number}"], max_shard_size="200MB")
    return paths


def measure(models: dict[str, Path], registry: Path, budget: float) -> list[Stage]:
    """Measures reading, and then every stage of one run, in a separate process.

    Raises: RunFailed if the run fails.
    """
    context = multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    process = context.Process(target=_run, args=(models, registry, budget, results))
    process.start()
    process.join()
    if process.exitcode != 0 or results.empty():
        raise RunFailed(f"the measured run ended with exit code {process.exitcode}")
    found: list[Stage] = results.get()
    return found


def _run(models: dict[str, Path], registry: Path, budget: float, results: Any) -> None:
    torch.set_num_threads(1)
    recipe = Recipe(
        family="footprint",
        registry=str(registry),
        models=models,
        expert_budget=budget,
        calibration=((None, CALIBRATION),),
    )
    watch = _Watch()
    with watch.running():
        _read(models)
        consolidate(recipe, executor=LocalExecutor(), progress=watch.note)
    results.put(watch.stages)


def _read(models: dict[str, Path]) -> None:
    buffer = bytearray(READ_BYTES)
    for directory in models.values():
        for path in sorted(directory.glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


class _Watch:
    """Watches this process's clocks and, from a thread, its memory."""

    def __init__(self) -> None:
        self.stages = [Stage(READ)]
        self._before = _resident()
        self._since = time.perf_counter(), time.process_time()
        self._stop = threading.Event()

    def note(self, progress: Progress) -> None:
        """A stage begins or goes on."""
        ended = progress.done == progress.total
        name = WITHOUT_TASKS.get(progress.stage, progress.stage) if ended else progress.stage
        self._count()
        if self.stages[-1].name != name:
            _give_back()
            self.stages.append(Stage(name))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch until the end of the block."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._count()
            self._stop.set()
            thread.join()

    def _count(self) -> None:
        now = time.perf_counter(), time.process_time()
        self.stages[-1].wall_s += now[0] - self._since[0]
        self.stages[-1].processor_s += now[1] - self._since[1]
        self._since = now

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            stage = self.stages[-1]
            anonymous, mapped = _resident()
            stage.anonymous_bytes = max(stage.anonymous_bytes, anonymous - self._before[0])
            stage.mapped_bytes = max(stage.mapped_bytes, mapped - self._before[1])


def _give_back() -> None:
    """Return free memory to the kernel, so that a stage is not charged for earlier ones."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident() -> tuple[int, int]:
    """Bytes of anonymous and of file pages that this process has in memory (Linux)."""
    fields = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        fields[key] = value
    anonymous, mapped = (int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssFile"))
    return anonymous, mapped

"""How much memory consolidating takes, measured on random checkpoints. Plans and merges nothing.

What counts is anonymous memory: pages of checkpoint files that are mapped for reading can be
dropped by the kernel at any time, and are told apart.
"""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from consolidation.errors import Failed
from consolidation.executor import LocalExecutor, Progress
from consolidation.pipeline import consolidate
from consolidation.recipe import Recipe

SAMPLE_S = 0.005


@dataclass(frozen=True, slots=True)
class Shape:
    """Random Mixtral checkpoints to consolidate, in bfloat16."""

    num_models: int = 4
    num_layers: int = 12
    num_experts: int = 8
    hidden_size: int = 512
    intermediate_size: int = 1024

    @property
    def layer_bytes(self) -> int:
        """Bytes of one layer's experts of all models: what reading may hold, beside a constant."""
        one = 3 * self.hidden_size * self.intermediate_size * 2
        return self.num_models * self.num_experts * one


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory that a stage held beyond what the process held before the run, in bytes.

    anonymous: its own.   mapped: pages of files, which the kernel may drop.
    """

    stage: str
    anonymous: int
    mapped: int


def write_checkpoints(directory: Path, shape: Shape) -> dict[str, Path]:
    """Random checkpoints by name, small differences to a common base."""
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
        model.save_pretrained(paths[f"m{number}"], max_shard_size="200MB")
    return paths


def measure(models: dict[str, Path], registry: Path, budget: float) -> list[Peak]:
    """Peaks of every stage of one run, in a process of its own.

    Raises: Failed when the run does not end well.
    """
    context = multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    process = context.Process(target=_run, args=(models, registry, budget, results))
    process.start()
    process.join()
    if process.exitcode != 0 or results.empty():
        raise Failed(f"the measured run ended with exit code {process.exitcode}")
    return [Peak(*peak) for peak in results.get()]


def _run(models: dict[str, Path], registry: Path, budget: float, results: Any) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    recipe = Recipe("footprint", str(registry), models, expert_budget=budget)
    sampler = _Sampler()
    with sampler.running():
        consolidate(recipe, executor=LocalExecutor(), progress=sampler.note)
    results.put([(stage, *peak) for stage, peak in sampler.peaks.items()])


class _Sampler:
    """Watches this process's memory from a thread, by stage."""

    def __init__(self) -> None:
        self.peaks: dict[str, tuple[int, int]] = {}
        self._stage = "start"
        self._before = _resident()
        self._stop = threading.Event()

    def note(self, progress: Progress) -> None:
        """A stage begins or goes on."""
        self._stage = progress.stage

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample until the end of the block."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            anonymous, mapped = _resident()
            more = (max(0, anonymous - self._before[0]), max(0, mapped - self._before[1]))
            before = self.peaks.get(self._stage, (0, 0))
            self.peaks[self._stage] = (max(before[0], more[0]), max(before[1], more[1]))


def _resident() -> tuple[int, int]:
    """Bytes of anonymous and of file pages that this process has in memory (Linux)."""
    fields = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        fields[key] = value
    return tuple(int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssFile"))  # type: ignore[return-value]

"""Describes a process that serves, as a value. Its arm is imported where it is opened."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.bench.arms.arm import Arm, Ground


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A way of serving, and how much of the machine it gets: see `process.Opens`.

    kind: "engine", "swap", "separate" or "transformers".   merged: the release as it is; else each
    model with experts of its own.   cores: the only ones it may use; None for all.   core_share:
    an engine's, of one core, where there are fewer cores than processes.
    """

    kind: str
    ground: Ground
    merged: bool = False
    cores: tuple[int, ...] | None = None
    threads: int | None = None
    core_share: float = 1.0
    environment: Mapping[str, str] = field(default_factory=dict)
    is_client: bool = False

    @property
    def name(self) -> str:
        return self.kind

    @property
    def models(self) -> tuple[str, ...]:
        return self.ground.models

    @property
    def variables(self) -> Mapping[str, str]:
        threads = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        return threads | dict(self.environment)

    def open(self) -> Arm:
        """Raises: as opening an engine does; Unsupported if the arm cannot serve the release."""
        import torch

        from serve_app.bench.arms.pooled import Pooled
        from serve_app.bench.arms.separate import Separate
        from serve_app.bench.arms.swap import Swap
        from serve_app.bench.arms.transformers import Batching
        from serve_app.bench.arms.unmerged import Unmerged

        if self.cores is not None and sys.platform == "linux":
            os.sched_setaffinity(0, self.cores)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        source = self.ground.source.open()
        if self.kind == "swap":
            return Swap(self.ground, source)
        if self.kind == "separate":
            return Separate(self.ground, source)
        held = source if self.merged else Unmerged(source, self.ground.models)
        if self.kind == "transformers":
            return Batching(self.ground, held)
        return Pooled(self.ground, held, self.core_share)

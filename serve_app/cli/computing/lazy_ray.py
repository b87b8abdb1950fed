"""Ray for a command that may need none: wrong input is reported before it starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from consolidation.run.executor import OnShare
    from consolidation.run.ray_tasks import RayExecutor
    from serve_app.cli.processes import Interruption


class LazyRay:
    """An executor that starts Ray with the first task.

    nice: the priority of tasks, and of this thread once Ray has started with its own.
    only_gpu, gpu_bytes: as for `RayExecutor`.
    """

    def __init__(
        self,
        interruption: Interruption,
        *,
        nice: int,
        only_gpu: int | None = None,
        gpu_bytes: int | None = None,
    ) -> None:
        self._interruption = interruption
        self._nice = nice
        self._only_gpu = only_gpu
        self._gpu_bytes = gpu_bytes
        self._open = ExitStack()
        self._executor: RayExecutor | None = None

    def map(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Any],
        *,
        in_flight: int | None = None,
        task_bytes: int = 0,
        device_bytes: int = 0,
        on_share: OnShare | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """See `consolidation.run.executor.Executor.map`."""
        if self._executor is None:
            # What Ray would otherwise print on stderr, between the progress bars.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            from consolidation.run.ray_tasks import RayExecutor

            ray = RayExecutor(nice=self._nice, only_gpu=self._only_gpu, gpu_bytes=self._gpu_bytes)
            self._executor = self._open.enter_context(ray)
            self._interruption.install()
            os.nice(self._nice)
        return self._executor.map(
            function,
            tasks,
            in_flight=in_flight,
            task_bytes=task_bytes,
            device_bytes=device_bytes,
            on_share=on_share,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

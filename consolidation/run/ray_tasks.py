"""Runs tasks with Ray. The only file of this package that knows it; tasks themselves do not."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import ray
from ray import cloudpickle

from consolidation.errors import RunFailed
from consolidation.run.executor import OnShare
from consolidation.run.ray_start import patient_start
from consolidation.run.worker import carry_out

Task = TypeVar("Task")
VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARES = 10_000
"""Ray counts parts of a GPU by ten-thousandths."""
RETRIES = 3
"""How often a task is run again after its worker died."""
STEPS = 200
"""How often a task that says how far it is does so."""


@dataclass(slots=True)
class _Running:
    """A task that runs, and how many of its steps are done."""

    index: int
    steps: int = 0


class RayExecutor:
    """Runs tasks on a Ray cluster: the one already joined, the one at `address`, or one of its own.

    `close`, or the end of a `with`, stops a cluster that it started. `num_cpus` is what each task
    reserves; with 0, tasks run even while other work has reserved all CPUs. `nice`: the priority
    of tasks, from 0 to 19, the lowest; Ray's own processes keep theirs. `only_gpu`: the number of
    the one GPU that a cluster of its own has. `gpu_bytes`: what is free on each; a task gets as
    much of one as it needs of that, and a whole one where that is not known.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        in_flight: int | None = None,
        num_cpus: float = 1,
        nice: int = 0,
        only_gpu: int | None = None,
        gpu_bytes: int | None = None,
    ) -> None:
        self._owned = not ray.is_initialized()
        self._gpu_bytes = gpu_bytes
        self._num_cpus = num_cpus
        self._nice = nice
        if self._owned:
            found = address or os.environ.get("RAY_ADDRESS") or "local"
            own: dict[str, Any] = {}
            if found == "local":
                os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default is 15
                own = {"include_dashboard": False}
                if only_gpu is not None:
                    os.environ[VISIBLE] = visible_gpu(os.environ.get(VISIBLE), only_gpu)
            with patient_start():
                ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR, **own)
        self._in_flight = in_flight or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def map(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Task],
        *,
        in_flight: int | None = None,
        task_bytes: int = 0,
        device_bytes: int = 0,
        on_share: OnShare | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """See `Executor.map`. Raises `RunFailed` when workers keep dying, or there is no GPU."""
        limit = min(in_flight or self._in_flight, self._in_flight)
        threads = self._threads(limit)
        # More than any machine has would be waited for without end.
        memory = min(task_bytes, _most_memory())
        steps = 0 if on_share is None else STEPS
        remote = self._remote(memory, self._gpu_share(device_bytes))
        waiting = iter(enumerate(tasks))
        running: dict[Any, _Running] = {}
        try:
            while True:
                while len(running) < limit and (following := next(waiting, None)) is not None:
                    index, task = following
                    work = cloudpickle.dumps((function, task))
                    yields = remote.remote(work, threads, self._nice, steps)
                    running[yields] = _Running(index)
                if not running:
                    return
                ready, _ = ray.wait(list(running), num_returns=1)
                for yields in cast(Any, ready):
                    found, now = _result(next(yields)), running[yields]
                    if now.steps == steps:
                        del running[yields]
                        yield now.index, found
                    elif on_share is not None:
                        now.steps += 1
                        on_share(now.index, now.steps / steps)
        finally:
            if ray.is_initialized():  # else Ray ended first, and its tasks with it
                for yields in running:
                    ray.cancel(yields, force=True)

    def _remote(self, memory: int, gpus: float) -> Any:
        """`carry_out` as Ray runs it: what it yields can be had one by one."""
        needs = ray.remote(
            num_cpus=self._num_cpus,
            num_gpus=gpus,
            memory=memory,
            max_retries=RETRIES,
            num_returns="streaming",
        )
        return cast(Any, needs(carry_out))

    def _gpu_share(self, device_bytes: int) -> float:
        """How much of a GPU a task asks for: with more at once, they would not fit it."""
        if not device_bytes:
            return 0
        if not ray.cluster_resources().get("GPU"):
            raise RunFailed("tasks are to run on GPUs, and no machine of the Ray cluster has one")
        return gpu_share(device_bytes, self._gpu_bytes)

    def close(self) -> None:
        """Stop the cluster if this executor has started it."""
        if self._owned:
            self._owned = False
            ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _threads(self, limit: int) -> int:
        """Threads of each task, so that `limit` tasks together use every core once."""
        return max(1, (os.cpu_count() or 1) // limit)


def gpu_share(device_bytes: int, gpu_bytes: int | None) -> float:
    """A share of a GPU by memory, as fine as Ray counts; all of it where its memory is unknown."""
    if gpu_bytes is None or device_bytes >= gpu_bytes:
        return 1
    return math.ceil(device_bytes * SHARES / gpu_bytes) / SHARES


def visible_gpu(visible: str | None, number: int) -> str:
    """What shows processes one GPU alone, of those that `visible` shows."""
    return visible.split(",")[number].strip() if visible else str(number)


def _most_memory() -> int:
    """Bytes that Ray gives out on the machine with the most."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return int(max((found.get("memory", 0) for found in resources), default=0))


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # What the task raised, not Ray's account of where.
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise RunFailed(
            f"a task could not be run, though tried {RETRIES + 1} times: {error}"
        ) from error

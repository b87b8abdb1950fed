"""One process of an arm: opens it, answers jobs when they are due, reports the outcomes.

The clock is the monotonic clock of the machine, which all its processes share.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, cast

from serve_app.bench.arms.arm import Arm
from serve_app.bench.requests.open_loop import Run, drive
from serve_app.bench.requests.workload import TimedJob
from serve_app.errors import EngineError

CLOSE_S = 10.0
"""How long a process may take to end before it is killed."""


class Opens(Protocol):
    """Says what a process is to serve. A value, because it is sent to the process.

    name: for people.   models: whose jobs it gets.   variables: of its environment.
    is_client: whether the process only asks somebody else.
    """

    @property
    def name(self) -> str: ...

    @property
    def models(self) -> tuple[str, ...]: ...

    @property
    def variables(self) -> Mapping[str, str]: ...

    @property
    def is_client(self) -> bool: ...

    def open(self) -> Arm:
        """The arm itself, in the calling process."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """What a process sends once it is ready."""


@dataclass(frozen=True, slots=True)
class Order:
    """Jobs to answer, starting at a time of the clock."""

    jobs: tuple[TimedJob, ...]
    start: float
    drain_s: float


@dataclass(frozen=True, slots=True)
class Progressed:
    """How many jobs of the order have ended."""

    num_ended: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The outcome of an order, and what else the arm reports."""

    run: Run
    device_bytes: int
    facts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Broke:
    """Why a process could not go on."""

    words: str


class ArmProcess:
    """A process, as seen by the one that started it."""

    def __init__(self, spec: Opens) -> None:
        """Start it. It is ready once `wait_until_open` returns."""
        context = multiprocessing.get_context("spawn")
        self.spec = spec
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(spec, theirs), name=f"expertpool-{spec.name}", daemon=True
        )
        with _environment(spec.variables):
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its number on this machine."""
        assert self._process.pid is not None
        return self._process.pid

    def wait_until_open(self) -> None:
        """Raises: EngineError with what it reports, if it does not get ready."""
        assert isinstance(self._receive(), Opened)

    def begin(self, order: Order) -> None:
        """Have it answer jobs, only for its own models."""
        self._pipe.send(order)

    @property
    def pipe(self) -> "Connection[Any, Any]":
        """To wait on; `receive` reads what comes."""
        return self._pipe

    def receive(self) -> Progressed | Answered:
        """Its next report about its order. Raises: EngineError with what it could not do."""
        found = self._receive()
        assert isinstance(found, (Progressed, Answered))
        return found

    def close(self) -> None:
        """End it: ask first, kill it after a while."""
        self._pipe.close()
        self._process.join(CLOSE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def _receive(self) -> Any:
        try:
            found = self._pipe.recv()
        except EOFError:
            self._process.join(CLOSE_S)
            raise EngineError(
                f"the process of {self.spec.name!r} ended with code {self._process.exitcode}"
            ) from None
        if isinstance(found, Broke):
            raise EngineError(f"the process of {self.spec.name!r}: {found.words}")
        return found


def serve(spec: Opens, pipe: "Connection[Any, Any]") -> None:
    """What the process does until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process ends it
    try:
        arm = spec.open()
    except Exception as error:  # noqa: BLE001 - told to whoever waits
        pipe.send(Broke(f"{type(error).__name__}: {error}"))
        return
    pipe.send(Opened())
    try:
        while True:
            order = pipe.recv()
            run = drive(
                arm,
                order.jobs,
                start=order.start,
                drain_s=order.drain_s,
                on_progress=lambda done: pipe.send(Progressed(done)),
                processor_s=time.process_time if spec.is_client else None,
            )
            pipe.send(Answered(run, arm.device_bytes, arm.facts))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        arm.close()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that a process started inside the context inherits."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def answer_all(
    processes: Sequence[ArmProcess],
    jobs: Sequence[TimedJob],
    *,
    drain_s: float,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Answered]:
    """Give each process the jobs of its models, all starting at the same time, and wait for all."""
    start = time.monotonic() + 0.2
    for process in processes:
        own = tuple(job for job in jobs if job.model in process.spec.models)
        process.begin(Order(own, start, drain_s))
    ended = [0] * len(processes)
    found: dict[int, Answered] = {}
    while len(found) < len(processes):
        open_pipes = {p.pipe: n for n, p in enumerate(processes) if n not in found}
        for pipe in wait(list(open_pipes)):
            number = open_pipes[cast("Connection[Any, Any]", pipe)]
            match processes[number].receive():
                case Progressed(num_ended):
                    ended[number] = num_ended
                    on_progress(sum(ended))
                case Answered() as answered:
                    found[number] = answered
    return [found[number] for number in range(len(processes))]

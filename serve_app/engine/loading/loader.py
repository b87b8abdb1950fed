"""Reads experts' parts and backbones in the background, into rows and places that nothing uses yet.

Decides nothing and changes no count: it reports what is done, and the engine's thread acts on it.
"""

import contextlib
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from serve_app.engine.loading.backbones import (
    Destination,
    HostBackbone,
    Tensors,
    check_backbone,
    hold_backbone,
    load_backbone,
)
from serve_app.engine.loading.part_reads import PartToLoad, read_parts
from serve_app.engine.model.facts import vocabulary
from serve_app.engine.model.packed import Configured, PackedModel
from serve_app.engine.source import ReleaseSource
from serve_app.engine.stacks.arrivals import Arrival
from serve_app.errors import BadRelease, EngineError, LoadFailed, Unsupported


@dataclass(frozen=True, slots=True)
class BackboneLoaded:
    """A backbone is in its place, or why it is not.

    through_host: whether it came from a host copy, old or new; held: that copy, if any.
    num_bytes: copied bytes, without what rows already held.
    """

    backbone: str
    place: int
    num_bytes: int
    seconds: float
    error: EngineError | None
    through_host: bool
    held: HostBackbone | None


@dataclass(frozen=True, slots=True)
class BackboneHeld:
    """A backbone is in host memory, or why it is not."""

    backbone: str
    held: HostBackbone | None
    error: EngineError | None


@dataclass(frozen=True, slots=True)
class BackboneChecked:
    """A backbone can be read, or why it cannot."""

    backbone: str
    error: EngineError | None


@dataclass(frozen=True, slots=True)
class PartsLoaded:
    """The missing parts of a release are written, or why they are not.

    configured: of each of its models.
    """

    source: ReleaseSource
    configured: Mapping[str, Configured]
    seconds: float
    error: EngineError | None


@dataclass(frozen=True, slots=True)
class BackboneToRead:
    """A backbone, and a release and a model that have it."""

    backbone: str
    source: ReleaseSource
    model: str

    @property
    def label(self) -> str:
        return f"release {self.source.id!r}, model {self.model!r}"

    def read(self) -> Tensors:
        """Its tensors as they are stored, verified."""
        return self.source.read_backbone(self.model)


BackboneReport = BackboneLoaded | BackboneHeld | BackboneChecked
Report = BackboneReport | PartsLoaded


class Loader:
    """Three threads, so that none waits for another: for places, for the host, and for parts.

    num_writing: loads into places and rows that are not reported yet.
    loading: the backbones among them.
    """

    def __init__(self, packed: PackedModel, on_report: Callable[[], None]) -> None:
        """on_report: called after each report, on the loader's threads."""
        self._packed = packed
        self._on_report = on_report
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._places = ThreadPoolExecutor(1, "expertpool-places")
        self._host = ThreadPoolExecutor(1, "expertpool-host")
        self._parts = ThreadPoolExecutor(1, "expertpool-parts")
        self.num_writing = 0
        self.loading: set[str] = set()

    def load_backbone(
        self,
        wanted: BackboneToRead,
        held: HostBackbone | None,
        to: Destination,
        arrival: Arrival,
        *,
        hold: bool,
    ) -> None:
        """Start copying a backbone into a place, from its host copy if there is one.

        hold: if there is none, read it into host memory first.
        """
        through_host = hold or held is not None
        num_bytes = 0

        def work() -> None:
            nonlocal held, num_bytes
            if held is None and hold:
                held = hold_backbone(self._packed, self._read(wanted), wanted.label)
            tensors = self._read(wanted) if held is None else held.tensors.items()
            num_bytes = load_backbone(self._packed, to, tensors, wanted.label, arrival)

        def report(seconds: float, error: EngineError | None) -> BackboneLoaded:
            return BackboneLoaded(
                wanted.backbone, to.place, num_bytes, seconds, error, through_host, held
            )

        self.num_writing += 1
        self.loading.add(wanted.backbone)
        future = self._places.submit(self._run, work, wanted.label, report)
        future.add_done_callback(lambda _: arrival.end())

    def hold_backbone(self, wanted: BackboneToRead) -> None:
        """Start reading a backbone into host memory."""
        held: list[HostBackbone] = []

        def work() -> None:
            held.append(hold_backbone(self._packed, self._read(wanted), wanted.label))

        def report(_: float, error: EngineError | None) -> BackboneHeld:
            return BackboneHeld(wanted.backbone, held[0] if held else None, error)

        self._host.submit(self._run, work, wanted.label, report)

    def check_backbone(self, wanted: BackboneToRead) -> None:
        """Start reading a backbone to check that it can be read."""

        def work() -> None:
            check_backbone(self._packed, self._read(wanted), wanted.label)

        def report(_: float, error: EngineError | None) -> BackboneChecked:
            return BackboneChecked(wanted.backbone, error)

        self._host.submit(self._run, work, wanted.label, report)

    def load_parts(self, source: ReleaseSource, parts: list[PartToLoad]) -> None:
        """Start making what models' configs ask for, then copying slots and residuals."""
        layers = list(self._packed.pool.values())
        label = f"release {source.id!r}"
        configured: dict[str, Configured] = {}

        def work() -> None:
            for name, model in source.models.items():
                try:
                    configured[name] = self._packed.configured(model.config)
                except Unsupported as error:
                    raise Unsupported(f"{label}, model {name!r}: {error}") from error
            for part, tensors in read_parts(source, parts):
                noun = "residual" if part.shelf.residual else "slot"
                what = f"{label}, layer {part.layer}, {noun} {part.index}"
                layers[part.layer].shelves[part.shelf].write(part.row, tensors, what)

        self.num_writing += 1
        self._parts.submit(
            self._run, work, label, lambda s, error: PartsLoaded(source, configured, s, error)
        )

    def reports(self) -> Iterator[Report]:
        """What has been done since the last call."""
        with contextlib.suppress(queue.Empty):
            while True:
                report = self._reports.get_nowait()
                self.num_writing -= isinstance(report, BackboneLoaded | PartsLoaded)
                if isinstance(report, BackboneLoaded):
                    self.loading.discard(report.backbone)
                yield report

    def close(self) -> None:
        """Finish running loads and take no more."""
        for threads in (self._places, self._host, self._parts):
            threads.shutdown(cancel_futures=True)

    def _read(self, wanted: BackboneToRead) -> Tensors:
        """The tensors of a backbone. Raises: BadRelease if they have not the model's vocabulary."""
        stacks = self._packed.stacks
        over_vocabulary = {stacks.canonical(name) for name in self._packed.vocabulary_names}
        length = vocabulary(wanted.source.models[wanted.model].config)
        for name, tensor in wanted.read():
            if stacks.canonical(name) in over_vocabulary and len(tensor) != length:
                raise BadRelease(
                    f"{wanted.label}: {name} has {len(tensor)} rows; its config says that the "
                    f"vocabulary has {length}"
                )
            yield name, tensor

    def _run(
        self,
        work: Callable[[], None],
        label: str,
        report: Callable[[float, EngineError | None], Report],
    ) -> None:
        began = time.monotonic()
        error: EngineError | None = None
        try:
            with self._side_stream():
                work()
        except Exception as caught:  # noqa: BLE001 - a source may raise anything; the engine must learn of it
            error = load_failure(label, caught)
        self._reports.put(report(time.monotonic() - began, error))
        self._on_report()

    @contextlib.contextmanager
    def _side_stream(self) -> Iterator[None]:
        """On CUDA, copy while steps run, and wait for the copies before reporting them.

        A place or row may have been in use until the last step, so copies begin after it.
        """
        if self._packed.device.type != "cuda":
            yield
            return
        stream = torch.cuda.Stream(self._packed.device)
        stream.wait_stream(torch.cuda.default_stream(self._packed.device))
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            stream.synchronize()


def load_failure(label: str, error: Exception) -> EngineError:
    """Why something could not be loaded. label: names it."""
    if isinstance(error, EngineError):
        return error
    failure = LoadFailed(f"{label}: {str(error) or type(error).__name__}")
    failure.__cause__ = error
    return failure

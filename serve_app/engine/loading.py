"""Reads experts' parts and backbones in the background, into rows and places that nothing uses yet.

Decides nothing, and changes no count: what is done is reported, and the engine's thread acts on it.
"""

import contextlib
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from serve_app.engine.backbones import load_backbone
from serve_app.engine.packed import PackedModel
from serve_app.engine.parts import ShelfKey
from serve_app.engine.source import ReleaseSource
from serve_app.errors import EngineError, LoadFailed


@dataclass(frozen=True, slots=True)
class BackboneLoaded:
    """A backbone is in its place; or is not, and why."""

    backbone: str
    seconds: float
    error: EngineError | None


@dataclass(frozen=True, slots=True)
class PartsLoaded:
    """The parts that a release was missing are written; or are not, and why."""

    source: ReleaseSource
    seconds: float
    error: EngineError | None


@dataclass(frozen=True, slots=True)
class PartToLoad:
    """A slot or a residual of a release, by its index in its layer, and the row it is to be in."""

    layer: int
    shelf: ShelfKey
    index: int
    row: int


Report = BackboneLoaded | PartsLoaded


class Loader:
    """Two threads, one for backbones and one for parts, so that neither waits for the other."""

    def __init__(self, packed: PackedModel, on_report: Callable[[], None]) -> None:
        """on_report: called after each report, from the loader's threads."""
        self._packed = packed
        self._on_report = on_report
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._backbones = ThreadPoolExecutor(1, "expertpool-backbones")
        self._parts = ThreadPoolExecutor(1, "expertpool-parts")
        self.num_pending = 0

    def load_backbone(self, source: ReleaseSource, model: str, backbone: str, place: int) -> None:
        """Begin copying a backbone into a place."""
        label = f"release {source.id!r}, model {model!r}"

        def work() -> None:
            load_backbone(self._packed, place, source.read_backbone(model), label)

        self.num_pending += 1
        self._backbones.submit(
            self._run, work, label, lambda s, error: BackboneLoaded(backbone, s, error)
        )

    def load_parts(self, source: ReleaseSource, parts: list[PartToLoad]) -> None:
        """Begin copying slots and residuals."""
        layers = list(self._packed.pool.values())
        label = f"release {source.id!r}"

        def work() -> None:
            for part in parts:
                noun = "residual" if part.shelf.residual else "slot"
                read = source.read_residual if part.shelf.residual else source.read_slot
                what = f"{label}, layer {part.layer}, {noun} {part.index}"
                shelf = layers[part.layer].shelves[part.shelf]
                shelf.write(part.row, read(part.layer, part.index), what)

        self.num_pending += 1
        self._parts.submit(self._run, work, label, lambda s, error: PartsLoaded(source, s, error))

    def reports(self) -> Iterator[Report]:
        """What has been done since the last call."""
        with contextlib.suppress(queue.Empty):
            while True:
                report = self._reports.get_nowait()
                self.num_pending -= 1
                yield report

    def close(self) -> None:
        """Finish what is under way and take no more."""
        self._backbones.shutdown(cancel_futures=True)
        self._parts.shutdown(cancel_futures=True)

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
        except EngineError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001 - a source may raise anything; the engine must learn of it
            error = LoadFailed(f"{label}: {caught}")
            error.__cause__ = caught
        self._reports.put(report(time.monotonic() - began, error))
        self._on_report()

    @contextlib.contextmanager
    def _side_stream(self) -> Iterator[None]:
        """On CUDA copy beside the steps, and wait for the copies before they are reported.

        A place or row may have been in use until the last step: copies begin after it.
        """
        if self._packed.device.type != "cuda":
            yield
            return
        stream = torch.cuda.Stream(self._packed.device)
        stream.wait_stream(torch.cuda.default_stream(self._packed.device))
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()

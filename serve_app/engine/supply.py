"""Brings releases and backbones in beside the steps, and lets go of what nothing needs.

Knows no requests: those that a failed load costs are only reported.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve_app.engine.loading import BackboneLoaded, Loader, PartsLoaded
from serve_app.engine.memory import MemoryPlan
from serve_app.engine.packed import PackedModel
from serve_app.engine.releases import Releases
from serve_app.engine.source import ReleaseSource
from serve_app.engine.staging import growth_bytes, make_room, must_move, require_room_alone
from serve_app.engine.stats import Counters
from serve_app.errors import EngineError, LoadFailed
from serve_app.scheduling.plan import Load
from serve_app.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lost:
    """A request that was given up, because its model's backbone could not be loaded."""

    request: str
    error: EngineError


class Supply:
    """Releases that are being staged and retired, and loads of backbones that are under way.

    The scheduler decides which backbone is loaded; here it is done and reported.
    """

    def __init__(
        self,
        packed: PackedModel,
        memory: MemoryPlan,
        scheduler: Scheduler,
        releases: Releases,
        counters: Counters,
        on_loaded: Callable[[], None],
    ) -> None:
        """on_loaded: called from another thread when something in the background got done."""
        self._packed = packed
        self._memory = memory
        self._scheduler = scheduler
        self._releases = releases
        self._counters = counters
        self._loader = Loader(packed, on_loaded)
        self._staging: dict[str, Callable[[EngineError | None], None]] = {}
        self._awaiting: deque[ReleaseSource] = deque()
        self._held_loads: list[Load] = []
        self._retiring: dict[str, list[Callable[[], None]]] = {}
        self._orphans: set[str] = set()

    @property
    def is_staging(self) -> bool:
        """Whether a release is being loaded."""
        return bool(self._staging)

    def is_retiring(self, release: str) -> bool:
        """Whether a release takes no new requests."""
        return release in self._retiring

    def fits_beside(self, source: ReleaseSource) -> bool:
        """Whether there is room for a release beside what is loaded."""
        spare = self._spare_bytes()
        return spare is None or growth_bytes(self._packed, self._releases, source) <= spare

    def require_room_alone(self, source: ReleaseSource) -> None:
        """Raises: DoesNotFit for a release that would not fit even if nothing else were loaded."""
        require_room_alone(self._packed, self._releases, source, self._spare_bytes())

    def stage(self, source: ReleaseSource, on_done: Callable[[EngineError | None], None]) -> None:
        """Begin loading the parts of a release's experts. `on_done`: as of `Engine.stage`."""
        try:
            if source.id in self._releases or source.id in self._staging:
                raise LoadFailed(f"release {source.id!r} is loaded, or being loaded, already")
            self._releases.check_shape(source)
        except EngineError as error:
            on_done(error)
            return
        self._staging[source.id] = on_done
        self._awaiting.append(source)
        self._begin_stagings()

    def retire(self, release: str, on_done: Callable[[], None]) -> None:
        """Take no new requests for a release; free it when its last sequence has ended.

        Raises: UnknownRelease.
        """
        self._releases.release(release)
        self._retiring.setdefault(release, []).append(on_done)
        self.drop_retired()

    def take_reports(self) -> Iterator[Lost]:
        """Take in what was done since the last call, and begin what waited for it."""
        for report in self._loader.reports():
            if isinstance(report, PartsLoaded):
                self._note_parts(report)
            else:
                yield from self._note_backbone(report)
        self._begin_stagings()

    def begin_loads(self, loads: tuple[Load, ...]) -> None:
        """Begin a plan's loads, or hold them while a release waits to make room."""
        self._held_loads += loads
        if self._awaiting or not self._held_loads:
            return
        begun, self._held_loads = self._held_loads, []
        sources = self._releases.backbones()
        for load in begun:
            if load.backbone in sources:
                source, model = sources[load.backbone]
                self._loader.load_backbone(source, model, load.backbone, load.place)
            else:  # its release went while the load was held, and nothing waits for it
                self._scheduler.load_failed(load.backbone)

    def drop_retired(self) -> None:
        """Free the releases that are being retired and that no sequence is of any more."""
        for release in list(self._retiring):
            models = self._releases.release(release).models
            if any(self._scheduler.count((release, name)) for name in models):
                continue
            self._orphans.update(self._releases.drop(release))
            self._scheduler.blocks.forget(release)
            for on_done in self._retiring.pop(release):
                on_done()
        self._orphans -= self._releases.backbones().keys()
        self._orphans = {b for b in self._orphans if not self._scheduler.drop_backbone(b)}

    def close(self) -> None:
        """Stop loading."""
        self._loader.close()

    def _begin_stagings(self) -> None:
        """Begin loading the parts of releases, in the order in which they were asked for.

        Growing replaces tensors that a load may be writing. So a release that needs more room
        waits for the loads that are under way, and new loads wait for it; the steps wait for none.
        """
        while self._awaiting:
            source = self._awaiting[0]
            if self._loader.num_pending and must_move(self._packed, self._releases, source):
                return
            self._awaiting.popleft()
            try:
                make_room(self._packed, self._releases, source, self._spare_bytes())
                parts = self._releases.take_rows(source)
            except EngineError as error:
                self._staging.pop(source.id)(error)
                continue
            self._loader.load_parts(source, parts)

    def _spare_bytes(self) -> int | None:
        """Bytes that may still be allocated; None where nothing limits them."""
        if self._memory.device_memory is None:
            return None
        packed = self._packed
        now = packed.pool_bytes + packed.backbone_bytes + packed.kv_bytes
        return self._memory.allocated_bytes + self._memory.spare_bytes - now

    def _note_parts(self, report: PartsLoaded) -> None:
        self._counters.staging_seconds += report.seconds
        on_done = self._staging.pop(report.source.id)
        if report.error is None:
            self._releases.register(report.source)
        else:
            self._releases.give_back_rows(report.source)
        on_done(report.error)

    def _note_backbone(self, report: BackboneLoaded) -> Iterator[Lost]:
        self._counters.backbone_loads += 1
        self._counters.backbone_load_seconds += report.seconds
        if report.error is None:
            self._scheduler.loaded(report.backbone)
            return
        self._counters.backbone_load_failures += 1
        logger.error("a backbone could not be loaded: %s", report.error)
        for request in self._scheduler.load_failed(report.backbone):
            yield Lost(request, report.error)

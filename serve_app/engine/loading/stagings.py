"""The queue of releases to load, and the one being loaded. Loads no backbone itself."""

import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from serve_app.engine.loading.loader import (
    BackboneReport,
    BackboneToRead,
    Loader,
    PartsLoaded,
    Report,
    load_failure,
)
from serve_app.engine.loading.part_reads import PartToLoad
from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.loading.room import Room
from serve_app.engine.model.packed import Configured
from serve_app.engine.source import ReleaseSource, backbone_key
from serve_app.errors import BadRelease, EngineError, LoadFailed

logger = logging.getLogger(__name__)
OnDone = Callable[[EngineError | None], None]


@dataclass(slots=True)
class _Staging:
    """A release that is to be loaded. due: the reports that it waits for.

    may_lack: as in `Engine.stage`.   configured: of its models, once its parts are loaded.
    """

    source: ReleaseSource
    backbones: dict[str, BackboneToRead]
    may_lack: bool
    configured: Mapping[str, Configured] = field(default_factory=dict)
    due: set[tuple[type, str]] = field(default_factory=set)
    error: EngineError | None = None


class Stagings:
    """Loads one release after another, in the order of the requests for them.

    Growing replaces tensors that a load may be writing. So a release that needs more room waits
    for running loads, and new loads wait for it. Steps never wait.
    is_making_room: whether a release is waiting like this.
    """

    def __init__(self, releases: PooledReleases, room: Room, loader: Loader) -> None:
        self.is_making_room = False
        self._releases = releases
        self._room = room
        self._loader = loader
        self._awaiting: deque[_Staging] = deque()
        self._on_done: dict[str, OnDone] = {}
        self._current: _Staging | None = None

    def __bool__(self) -> bool:
        """Whether a release waits or is being loaded."""
        return bool(self._on_done)

    @property
    def source(self) -> ReleaseSource | None:
        """The release that is being loaded; it already has its rows."""
        return None if self._current is None else self._current.source

    @property
    def backbones(self) -> Mapping[str, BackboneToRead]:
        """Those of the release that is being loaded."""
        return {} if self._current is None else self._current.backbones

    def add(self, source: ReleaseSource, on_done: OnDone, *, may_lack: bool) -> None:
        """Ask for a release, as in `Engine.stage`. Calls `on_done` at once if it is refused."""
        try:
            if source.id in self._releases or source.id in self._on_done:
                raise LoadFailed(f"release {source.id!r} is loaded, or being loaded, already")
            self._releases.check_shape(source)
        except EngineError as error:
            on_done(error)
            return
        self._on_done[source.id] = on_done
        self._awaiting.append(_Staging(source, _backbones(source), may_lack))

    def begin_next(self) -> bool:
        """Start loading the parts of the next release, if there is one and it need not wait.

        A release for which room cannot be made, or whose config says something impossible, is
        refused, and the next one's turn comes.
        -> whether one was started, whose backbones must be fetched.
        """
        while self._awaiting and self._current is None:
            source = self._awaiting[0].source
            try:
                parts = self._make_room(source)
            except Exception as error:  # noqa: BLE001  whatever it is, others go on
                self._awaiting.popleft()
                self._refuse(source, error)
                continue
            if parts is None:
                return False
            self._current = self._awaiting.popleft()
            self.wait_for(PartsLoaded, source.id)
            self._loader.load_parts(source, parts)
            return True
        return False

    def _make_room(self, source: ReleaseSource) -> list[PartToLoad] | None:
        """Rows for a release. -> the parts that must be written; None if it must wait."""
        self.is_making_room = False
        self.is_making_room = bool(self._loader.num_writing) and self._room.must_move(source)
        if self.is_making_room:
            return None
        self._room.make(source)
        return self._releases.take_rows(source)

    def _refuse(self, source: ReleaseSource, error: Exception) -> None:
        """Raises: AssertionError if the failure has left counts and tensors that do not agree."""
        self._on_done.pop(source.id)(load_failure(f"release {source.id!r}", error))
        if not isinstance(error, EngineError):
            logger.error("no room could be made for release %s", source.id, exc_info=error)
            self._releases.check(None)
            self._room.check()

    def wait_for(self, report: type[Report], of: str) -> None:
        """The release being loaded also waits for this report."""
        assert self._current is not None
        self._current.due.add((report, of))

    def does_without(self, report: BackboneReport) -> bool:
        """Whether this backbone could not be read, and the release that waits for it may lack it.

        Not if it was read as it was published: then it will not be right later.
        """
        staging = self._current
        if staging is None or (type(report), report.backbone) not in staging.due:
            return False
        may_heal = report.error is not None and not isinstance(report.error, BadRelease)
        return staging.may_lack and may_heal

    def note(self, report: Report) -> Collection[str]:
        """A report has come; the release being loaded may have waited for it.

        -> backbones of that release, if this report makes it fail.
        """
        staging = self._current
        of = report.source.id if isinstance(report, PartsLoaded) else report.backbone
        if staging is None or (type(report), of) not in staging.due:
            return ()
        if isinstance(report, PartsLoaded) or not self.does_without(report):
            staging.error = staging.error or report.error
        staging.due.discard((type(report), of))
        if isinstance(report, PartsLoaded):
            staging.configured = report.configured
        if staging.due:
            return ()
        self._current = None
        self._register(staging)
        self._on_done.pop(staging.source.id)(staging.error)
        return () if staging.error is None else staging.backbones.keys()

    def _register(self, staging: _Staging) -> None:
        """Let requests name the release, unless it could not be loaded."""
        source = staging.source
        if staging.error is None:
            try:
                self._releases.register(source, staging.configured)
            except Exception as error:  # noqa: BLE001  whatever it is, others go on
                staging.error = load_failure(f"release {source.id!r}", error)
        if staging.error is not None:
            self._releases.give_back_rows(source)


def _backbones(source: ReleaseSource) -> dict[str, BackboneToRead]:
    return {
        backbone_key(model): BackboneToRead(backbone_key(model), source, name)
        for name, model in source.models.items()
    }

"""The queue of releases to load, and the one being loaded. Loads no backbone itself."""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from serve_app.engine.loading.loader import BackboneToRead, Loader, PartsLoaded, Report
from serve_app.engine.loading.pooled_releases import PooledReleases
from serve_app.engine.loading.room import Room
from serve_app.engine.model.facts import backbone_key
from serve_app.engine.source import ReleaseSource
from serve_app.errors import EngineError, LoadFailed

OnDone = Callable[[EngineError | None], None]


@dataclass(slots=True)
class _Staging:
    """A release that is being loaded. due: the reports that it waits for."""

    source: ReleaseSource
    backbones: dict[str, BackboneToRead]
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
        self._awaiting: deque[ReleaseSource] = deque()
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

    def add(self, source: ReleaseSource, on_done: OnDone) -> None:
        """Ask for a release. `on_done`: as in `Engine.stage`; called at once if it is refused."""
        try:
            if source.id in self._releases or source.id in self._on_done:
                raise LoadFailed(f"release {source.id!r} is loaded, or being loaded, already")
            self._releases.check_shape(source)
        except EngineError as error:
            on_done(error)
            return
        self._on_done[source.id] = on_done
        self._awaiting.append(source)

    def begin_next(self) -> bool:
        """Start loading the parts of the next release, if there is one and it need not wait.

        -> whether one was started, whose backbones must be fetched.
        """
        while self._awaiting and self._current is None:
            source = self._awaiting[0]
            self.is_making_room = bool(self._loader.num_writing) and self._room.must_move(source)
            if self.is_making_room:
                return False
            self._awaiting.popleft()
            try:
                self._room.make(source)
                parts = self._releases.take_rows(source)
            except EngineError as error:
                self._on_done.pop(source.id)(error)
                continue
            self._current = _Staging(source, _backbones(source))
            self.wait_for(PartsLoaded, source.id)
            self._loader.load_parts(source, parts)
            return True
        return False

    def wait_for(self, report: type[Report], of: str) -> None:
        """The release being loaded also waits for this report."""
        assert self._current is not None
        self._current.due.add((report, of))

    def note(self, report: Report) -> Collection[str]:
        """A report has come; the release being loaded may have waited for it.

        -> backbones of that release, if this report makes it fail.
        """
        staging = self._current
        of = report.source.id if isinstance(report, PartsLoaded) else report.backbone
        if staging is None or (type(report), of) not in staging.due:
            return ()
        staging.due.discard((type(report), of))
        staging.error = staging.error or report.error
        if staging.due:
            return ()
        self._current = None
        if staging.error is None:
            self._releases.register(staging.source)
        else:
            self._releases.give_back_rows(staging.source)
        self._on_done.pop(staging.source.id)(staging.error)
        return () if staging.error is None else staging.backbones.keys()


def _backbones(source: ReleaseSource) -> dict[str, BackboneToRead]:
    return {
        backbone_key(model): BackboneToRead(backbone_key(model), source, name)
        for name, model in source.models.items()
    }

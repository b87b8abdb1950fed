"""Brings what models are read from to this machine. Opens no checkpoint."""

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from consolidation.checkpoints.checkpoint import ModelFiles
from consolidation.errors import Refused
from consolidation.run.executor import Progress
from consolidation.sources import hub
from consolidation.sources.address import AddressFiles
from consolidation.sources.model_source import Kind, Location, ModelSource
from consolidation.sources.needed_files import check_files, small_files, weight_files
from consolidation.sources.remote import Remote

GIB = 1 << 30

OnProgress = Callable[[Progress], None]


def pin(
    models: Mapping[str, ModelSource], base: ModelSource | None
) -> tuple[dict[str, ModelSource], ModelSource | None]:
    """The same sources, with commits for revisions: what they name does not change any more.

    Asks the hub, where it is named. Raises: Refused, RunFailed.
    """
    found = {name: _pinned(source) for name, source in models.items()}
    return found, _pinned(base) if base is not None else None


def _pinned(source: ModelSource) -> ModelSource:
    adapter = source.adapter
    if adapter is not None and adapter.kind is Kind.HUB:
        adapter = hub.at_commit(adapter)
    commit = hub.at_commit(source).revision if source.kind is Kind.HUB else None
    return replace(source, revision=commit, adapter=adapter)


def bring(
    models: Mapping[str, ModelSource],
    base: ModelSource | None,
    progress: OnProgress = lambda _: None,
) -> tuple[dict[str, ModelFiles], ModelFiles | None]:
    """The directories of models and of their base, when all files that are read are there.

    Everything is looked up before anything is brought, and there must be room for all of it.
    Raises: Refused, RunFailed.
    """
    sources = [*models.values(), *([base] if base is not None else [])]
    wanted: dict[_Wanted, Remote | Path] = {}
    for source in sources:
        for one in _wanted_of(source):
            if one not in wanted:
                wanted[one] = _found(one)
    _fetch({one: found for one, found in wanted.items() if not isinstance(found, Path)}, progress)
    here = {
        one: found if isinstance(found, Path) else found.directory for one, found in wanted.items()
    }

    def files(source: ModelSource) -> ModelFiles:
        own, *adapter = (here[one] for one in _wanted_of(source))
        return ModelFiles(own, *adapter)

    found = {name: files(source) for name, source in models.items()}
    return found, files(base) if base is not None else None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A location, and what it should hold."""

    location: Location
    is_adapter: bool


def _wanted_of(source: ModelSource) -> Iterable[_Wanted]:
    yield _Wanted(Location(source.kind, source.source, source.revision), is_adapter=False)
    if source.adapter is not None:
        yield _Wanted(source.adapter, is_adapter=True)


def _found(wanted: _Wanted) -> Remote | Path:
    location = wanted.location
    if location.kind is Kind.DIRECTORY:
        return Path(location.source)
    if location.kind is Kind.ADDRESS:
        files = AddressFiles.listed(location.source)
        check_files(files.called, files.sizes, is_adapter=wanted.is_adapter)
        return files
    found = hub.HubFiles.listed(hub.at_commit(location))
    if isinstance(found, Path):
        _check_complete(location, found, is_adapter=wanted.is_adapter)
    else:
        check_files(found.called, found.sizes, is_adapter=wanted.is_adapter)
    return found


def _check_complete(location: Location, directory: Path, *, is_adapter: bool) -> None:
    """Raise `Refused` unless all that is read of a repository is in the cache."""
    names = [path.name for path in directory.iterdir() if path.exists()]
    check_files(f"{location.source} in the cache ({directory})", names, is_adapter=is_adapter)
    for name in weight_files(names, directory, is_adapter=is_adapter):
        if name not in names:
            raise Refused(
                f"{location.source} in the cache ({directory}) lacks {name}, "
                "and the hub cannot be asked for it"
            )


def _fetch(remotes: Mapping[_Wanted, Remote], progress: OnProgress) -> None:
    small = [
        (remote, name)
        for wanted, remote in remotes.items()
        for name in small_files(remote.sizes, is_adapter=wanted.is_adapter)
    ]
    _check_room(small)
    for remote, name in small:
        remote.fetch(name, lambda _: None)
    weights = []
    for wanted, remote in remotes.items():
        for name in weight_files(remote.sizes, remote.directory, is_adapter=wanted.is_adapter):
            if name not in remote.sizes:
                raise Refused(f"{remote.called} lacks {name}, which its index names")
            weights.append((remote, name))
    _check_room(weights)
    _Fetching(weights, progress).run()


class _Fetching:
    """Weights on their way, one file after another: each can take all of the network."""

    def __init__(self, files: list[tuple[Remote, str]], progress: OnProgress) -> None:
        self._files = files
        self._progress = progress
        self._total = sum(remote.sizes[name] for remote, name in files)
        self._found = sum(remote.sizes[name] for remote, name in files if remote.is_here(name))
        self._done = 0
        self._ended = 0

    def run(self) -> None:
        is_needless = self._found == self._total
        for remote, name in self._files:
            before = self._done
            if not is_needless:
                self._tell()
            remote.fetch(name, self._add)
            self._done = before + remote.sizes[name]
            self._ended += 1
        if not is_needless:
            self._tell()

    def _add(self, num_bytes: int) -> None:
        self._done += num_bytes
        self._tell()

    def _tell(self) -> None:
        num_bytes = (self._done, self._total, self._found)
        now = Progress("fetch", self._ended, len(self._files), noun="files", num_bytes=num_bytes)
        self._progress(now)


def _check_room(files: Iterable[tuple[Remote, str]]) -> None:
    """Raise `Refused` unless the disks have room for the files that are not here."""
    needed: dict[int, tuple[Path, int]] = {}
    for remote, name in files:
        if not remote.is_here(name):
            disk = _existing(remote.cache).stat().st_dev
            _, before = needed.get(disk, (remote.cache, 0))
            needed[disk] = (remote.cache, before + remote.sizes[name])
    for cache, num_bytes in needed.values():
        free = shutil.disk_usage(_existing(cache)).free
        if num_bytes > free:
            raise Refused(
                f"{num_bytes / GIB:.2f} GiB are to be fetched into {cache}, "
                f"and {free / GIB:.2f} GiB are free there"
            )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path

"""Brings what models are read from to this machine, and before that what headers tell of it."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from consolidation.checkpoints.checkpoint import Checkpoint, ModelFiles
from consolidation.checkpoints.notes import note_nothing
from consolidation.errors import Refused
from consolidation.sources import hub
from consolidation.sources.address import AddressFiles
from consolidation.sources.fetching import Fetching, OnProgress, at_once
from consolidation.sources.header_files import HeaderFiles, write_headers
from consolidation.sources.model_source import Kind, Location, ModelSource
from consolidation.sources.needed_files import check_files, small_files, weight_files
from consolidation.sources.remote import Remote

GIB = 1 << 30


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


def look_up(models: Mapping[str, ModelSource], base: ModelSource | None) -> "Located":
    """Where models and their base are. What is small of each is brought.

    Raises: Refused, RunFailed.
    """
    wanted: dict[_Wanted, Remote | Path] = {}
    for source in [*models.values(), *([base] if base is not None else [])]:
        for one in _wanted_of(source):
            if one not in wanted:
                wanted[one] = _found(one)
    remotes = {one: found for one, found in wanted.items() if not isinstance(found, Path)}
    small = {one: small_files(r.sizes, is_adapter=one.is_adapter) for one, r in remotes.items()}
    files = [(remote, name) for one, remote in remotes.items() for name in small[one]]
    _check_room(files)
    at_once([partial(remote.fetch, name, lambda _: None) for remote, name in files])
    places = {
        one: _Place(found, small.get(one, []), _weights(one, found))
        for one, found in wanted.items()
    }
    return Located(models, base, places)


def bring(
    models: Mapping[str, ModelSource],
    base: ModelSource | None,
    progress: OnProgress = lambda _: None,
    check: Callable[[Mapping[str, Checkpoint]], object] = lambda _: None,
) -> tuple[dict[str, ModelFiles], ModelFiles | None]:
    """The directories of models and of their base, when all files that are read are there.

    What opening them refuses is refused before weights are fetched, and so is what `check` does,
    which gets the models as their headers tell them. Raises: Refused, RunFailed.
    """
    located = look_up(models, base)
    if not located.is_here:
        with located.headers() as (files, base_files):
            opened = {name: one.open(note_nothing) for name, one in files.items()}
            if base_files is not None:
                base_files.open(note_nothing)
            check(opened)
    return located.fetch(progress)


@dataclass(frozen=True, slots=True)
class Located:
    """Models and their base where they are. `places`: of all that they are made of."""

    models: Mapping[str, ModelSource]
    base: ModelSource | None
    places: Mapping["_Wanted", "_Place"]

    @property
    def is_here(self) -> bool:
        """Whether no file has to be brought."""
        return all(place.is_here for place in self.places.values())

    @property
    def num_bytes(self) -> int:
        """Of all weights, wherever they are."""
        return sum(place.num_bytes for place in self.places.values())

    @contextmanager
    def headers(self) -> Iterator[tuple[dict[str, ModelFiles], ModelFiles | None]]:
        """What can be opened like the models and their base, though not read; until the end.

        Brings headers of what is not here. Raises: Refused, RunFailed.
        """
        with TemporaryDirectory(prefix="expertpool-headers-") as root:
            directories, called = dict[_Wanted, Path](), dict[Path, str]()
            for one, place in self.places.items():
                remote = place.found
                if isinstance(remote, Path) or place.is_here:
                    directories[one] = place.directory
                    continue
                own = Path(root).resolve() / place.directory.relative_to(remote.cache)
                directories[one] = own
                if own not in called:
                    called[own] = remote.called
                    write_headers(remote, place.small, place.weights, own)
            yield self._files(partial(HeaderFiles, called=called), directories)

    def fetch(
        self, progress: OnProgress = lambda _: None
    ) -> tuple[dict[str, ModelFiles], ModelFiles | None]:
        """The directories, when all is there. There must be room for all. Raises as `bring`."""
        weights = {
            place.directory / name: (place.found, name)
            for place in self.places.values()
            if not isinstance(place.found, Path)
            for name in place.weights
        }
        _check_room(weights.values())
        Fetching(list(weights.values()), progress).run()
        return self._files(ModelFiles, {one: p.directory for one, p in self.places.items()})

    def _files(
        self, made: Callable[..., ModelFiles], directories: Mapping["_Wanted", Path]
    ) -> tuple[dict[str, ModelFiles], ModelFiles | None]:
        def files(source: ModelSource) -> ModelFiles:
            return made(*(directories[one] for one in _wanted_of(source)))

        found = {name: files(source) for name, source in self.models.items()}
        return found, files(self.base) if self.base is not None else None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a location is, and the files that are read: small ones, which are here, and weights."""

    found: Remote | Path
    small: list[str]
    weights: list[str]

    @property
    def directory(self) -> Path:
        return self.found if isinstance(self.found, Path) else self.found.directory

    @property
    def is_here(self) -> bool:
        return all((self.directory / name).exists() for name in self.weights)

    @property
    def num_bytes(self) -> int:
        """Of its weights."""
        if isinstance(self.found, Path):
            return sum(file.stat().st_size for file in self.found.glob("*.safetensors"))
        return sum(self.found.sizes[name] for name in self.weights)


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


def _weights(wanted: _Wanted, found: Remote | Path) -> list[str]:
    """The names of a remote's weights; its small files are here."""
    if isinstance(found, Path):
        return []
    names = weight_files(found.sizes, found.directory, is_adapter=wanted.is_adapter)
    for name in names:
        if name not in found.sizes:
            raise Refused(f"{found.called} lacks {name}, which its index names")
    return names


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

"""Models on the hub, through huggingface_hub: its cache, its tokens, its offline mode."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from huggingface_hub import (
    HfApi,
    constants,
    get_session,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.constants import HF_HUB_DOWNLOAD_TIMEOUT
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its own way to export them
    build_hf_headers,
    hf_raise_for_status,
)

from consolidation.errors import ConsolidationError, Refused, RunFailed
from consolidation.sources.model_source import Location
from consolidation.sources.remote import OnBytes

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def at_commit(location: Location) -> Location:
    """The same, with the commit that its revision is now, or was when the hub last answered.

    Raises: Refused, RunFailed.
    """
    with _explained(location):
        resolved = HfApi().resolve_revision(location.source, revision=location.revision)
    return replace(location, revision=resolved.resolved)


@dataclass(frozen=True, slots=True)
class HubFiles:
    """The files of a repository at a commit. `blobs`: what the cache calls them, by name."""

    location: Location
    sizes: Mapping[str, int]
    blobs: Mapping[str, str]

    @classmethod
    def listed(cls, location: Location) -> Self | Path:
        """What the hub says is there; without the hub, the directory in the cache.

        location: at a commit.   Raises: Refused, RunFailed.
        """
        with _explained(location):
            try:
                found = HfApi().model_info(
                    location.source, revision=location.revision, files_metadata=True
                )
            except HfHubHTTPError as error:
                if error.response.status_code < 500:
                    raise
                return _cached(location, error)
            except Exception as error:  # noqa: BLE001  the library that speaks HTTP has classes of its own
                return _cached(location, error)
        files = found.siblings or []
        return cls(
            location,
            {one.rfilename: one.lfs.size if one.lfs else one.size or 0 for one in files},
            {one.rfilename: one.lfs.sha256 if one.lfs else one.blob_id or "" for one in files},
        )

    @property
    def called(self) -> str:
        return self.location.source

    @property
    def cache(self) -> Path:
        return Path(constants.HF_HUB_CACHE).expanduser()

    @property
    def directory(self) -> Path:
        return _storage(self.location) / "snapshots" / (self.location.revision or "")

    def is_here(self, name: str) -> bool:
        blob = self.blobs[name]
        return (self.directory / name).exists() or (
            bool(blob) and (_storage(self.location) / "blobs" / blob).exists()
        )

    def read(self, name: str, start: int, end: int) -> bytes:
        url = hf_hub_url(self.location.source, name, revision=self.location.revision)
        asked = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}"}
        with _explained(self.location):
            answer = get_session().get(url, headers=asked, timeout=HF_HUB_DOWNLOAD_TIMEOUT)
            hf_raise_for_status(answer)
            return bytes(answer.content)

    def fetch(self, name: str, on_bytes: OnBytes) -> None:
        with _explained(self.location):
            hf_hub_download(
                self.location.source,
                name,
                revision=self.location.revision,
                tqdm_class=_bar(on_bytes),
            )


def _storage(location: Location) -> Path:
    name = repo_folder_name(repo_id=location.source, repo_type="model")
    return Path(constants.HF_HUB_CACHE).expanduser() / name


def _cached(location: Location, why: Exception) -> Path:
    """The directory in the cache."""
    try:
        found = snapshot_download(
            location.source, revision=location.revision, local_files_only=True
        )
    except LocalEntryNotFoundError as error:
        raise error from why
    return Path(found)


def _bar(on_bytes: OnBytes) -> type[Any]:
    """What huggingface_hub takes for a progress bar. It shows nothing."""

    class Bar:
        def __init__(self, *_: Any, total: int | None = None, **__: Any) -> None:
            self.total = total

        def update(self, num_bytes: float | None = 1) -> None:
            on_bytes(int(num_bytes or 0))

        def update_transfer(self, num_bytes: float | None = 1) -> None:
            """Bytes as they cross the network, which may be fewer than those of the file."""

        def set_postfix_str(self, *_: Any, **__: Any) -> None: ...

        def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None: ...

        def refresh(self) -> None: ...

        def close(self) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

    return Bar


@contextmanager
def _explained(location: Location) -> Iterator[None]:
    """Errors of huggingface_hub in one line each."""
    try:
        yield
    except Exception as error:  # the library that speaks HTTP has classes of its own
        raise _explanation(location, error) from error


def _explanation(location: Location, error: Exception) -> ConsolidationError:
    name, hub = location.source, constants.ENDPOINT
    if isinstance(error, GatedRepoError):
        return Refused(f"{name} is gated: ask for access at {hub}/{name}, then {LOG_IN}")
    if isinstance(error, RepositoryNotFoundError):
        return Refused(
            f"{name!r} is not a directory, and {hub} shows no repository of that name: "
            f"if it is private, {LOG_IN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return Refused(f"{name} has no branch, tag or commit {location.revision!r} on {hub}")
    if isinstance(error, HfHubHTTPError):
        code = error.response.status_code
        if code in (401, 403):
            return Refused(f"{hub} does not let this token read {name} ({code}): {LOG_IN}")
        return RunFailed(f"cannot read {name}: {hub} answers {code}")
    causes = list(_causes(error))
    if isinstance(causes[-1], OfflineModeIsEnabled):
        return Refused(
            f"{location.source!r} is not a directory, HF_HUB_OFFLINE is set, and "
            f"{_with_revision(location)} is not in the cache {constants.HF_HUB_CACHE}"
        )
    answers = [one.response.status_code for one in causes if isinstance(one, HfHubHTTPError)]
    words = f"{type(causes[-1]).__name__}: {causes[-1]}".splitlines()[0]
    if answers:
        words = f"it answers {answers[0]}"
    if isinstance(error, (LocalEntryNotFoundError, RevisionResolutionError)):
        return RunFailed(
            f"{name!r} is not a directory, {hub} cannot be reached ({words}), and "
            f"{_with_revision(location)} is not in the cache {constants.HF_HUB_CACHE}"
        )
    return RunFailed(f"cannot read {name} from {hub}: {words}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _with_revision(location: Location) -> str:
    return f"{location.source}@{location.revision}" if location.revision else location.source

"""Where a registry's files are: a local directory, or any fsspec address. Knows no releases."""

from pathlib import Path

from consolidation.release.errors import StorageFailed
from consolidation.release.storage.filesystems import (
    asked_once,
    missing_package,
    open_filesystem,
    protocols,
)
from consolidation.release.storage.interface import File, Storage
from consolidation.release.storage.local_storage import LocalStorage
from consolidation.release.storage.remote_storage import RemoteStorage


def open_storage(url: str) -> Storage:
    """The storage at a path or fsspec address. Raises `StorageFailed` for one unknown to fsspec."""
    try:
        filesystem, root = open_filesystem(url)
    except ImportError as error:
        raise StorageFailed(missing_package(url, error)) from error
    except (ValueError, OSError) as error:
        raise StorageFailed(f"cannot open {url}: {error}") from error
    if "file" in protocols(filesystem):
        return LocalStorage(Path(root))
    return RemoteStorage(filesystem, str(root), url)


__all__ = [
    "File",
    "LocalStorage",
    "RemoteStorage",
    "Storage",
    "asked_once",
    "missing_package",
    "open_filesystem",
    "open_storage",
]

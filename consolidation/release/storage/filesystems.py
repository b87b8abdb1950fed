"""The file system of an fsspec address: how it is opened, and how long it is asked."""

from typing import Any

import fsspec

EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
}
"""The extra of this package that brings a protocol."""
WITH_BUCKETS = EXTRAS.keys()
"""Protocols without directories: to make one would make the bucket, however it is misspelt."""
S3_TRIES = 2
"""How often s3fs asks for what botocore gave up. botocore itself asks five times, for 15 s each."""
S3_CONNECTIONS = 32
"""How many requests botocore makes at once; it makes 10 by itself."""


def open_filesystem(url: str) -> tuple[Any, str]:
    """The file system of an fsspec address, and the path in it. Raises what its package raises."""
    filesystem, root = fsspec.core.url_to_fs(url)
    if "s3" in protocols(filesystem):
        filesystem.retries = S3_TRIES
        filesystem.config_kwargs.setdefault("max_pool_connections", S3_CONNECTIONS)
    return filesystem, str(root)


def asked_once(filesystem: Any) -> Any:
    """The same, for a first question: that nobody answers is known after half a minute."""
    if "s3" not in protocols(filesystem):
        return filesystem
    options = dict(filesystem.storage_options)
    options["config_kwargs"] = {
        **options.get("config_kwargs", {}),
        "retries": {"total_max_attempts": S3_TRIES},
    }
    found = type(filesystem)(**options)
    found.retries = 1
    return found


def missing_package(url: str, error: ImportError) -> str:
    """What to install for an address, in words."""
    extra = EXTRAS.get(url.partition("://")[0])
    how = f"pip install 'expertpool[{extra}]'" if extra else str(error)
    return f"{url} needs a package that is not installed: {how}"


def protocols(filesystem: Any) -> tuple[str, ...]:
    """What its addresses may begin with."""
    found = filesystem.protocol
    return (found,) if isinstance(found, str) else tuple(found)

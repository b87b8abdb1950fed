"""Writes to an object store that take place only if the file is as it was read.

S3 since 2024 (`If-Match`, `If-None-Match`), Google (`ifGenerationMatch`) and Azure (`If-Match`),
each by its own client's arguments. Other stores have no such writes, as far as fsspec knows them.
"""

from typing import Any

from consolidation.release.storage.filesystems import EXTRAS, protocols

MOVED = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
"""What S3 calls the answer that the file is another one by now."""
UNKNOWN = {"NotImplemented", "501"}
"""What stores that speak S3 call the answer that they have no such writes."""


class Moved(Exception):
    """The file is another one by now; nothing was written."""


def version(filesystem: Any, path: str) -> str | None:
    """What names a file's content in `write_if`; None if there is no file.

    Ask before you read: then a write in between makes `write_if` fail, not the reader wrong.
    """
    filesystem.invalidate_cache()
    try:
        info = filesystem.info(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = next((info[key] for key in ("generation", "ETag", "etag") if info.get(key)), "")
    return str(found)


def write_if(filesystem: Any, path: str, data: bytes, was: str | None) -> None:
    """Replace a file whose `version` was this, or make it if there was none. Raises `Moved`.

    Where the store has no such writes, or this one does not know them, the file is replaced.
    """
    try:
        extra = next((EXTRAS[one] for one in protocols(filesystem) if one in EXTRAS), None)
        if extra == "s3":
            filesystem.pipe_file(path, data, **_s3(was))
        elif extra == "gcs":
            _write_generation(filesystem, path, data, was)
        elif extra == "azure":
            filesystem.pipe_file(path, data, **_azure(was))
        else:
            filesystem.pipe_file(path, data)
    except Exception as error:  # each client raises its own classes
        code = _code(error)
        is_gone = was is not None and isinstance(error, FileNotFoundError)
        if is_gone or isinstance(error, FileExistsError) or code in MOVED:
            raise Moved(f"{path} has changed: {error}") from error
        if code not in UNKNOWN:
            raise
        filesystem.pipe_file(path, data)


def _code(error: BaseException) -> str:
    """What the store called an error: s3fs hides it in the cause, Azure has numbers of HTTP."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return str(getattr(error, "status_code", ""))


def _s3(was: str | None) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if was is None else {"IfMatch": was}


def _azure(was: str | None) -> dict[str, Any]:
    if was is None:
        return {"overwrite": False}
    from azure.core import MatchConditions

    return {"etag": was, "match_condition": MatchConditions.IfNotModified}


def _write_generation(filesystem: Any, path: str, data: bytes, was: str | None) -> None:
    """gcsfs writes only files that are new on a condition, so its request is made here."""
    bucket, name, _ = filesystem.split_path(path)
    filesystem.call(
        "POST",
        f"{filesystem.base.removesuffix('storage/v1/')}upload/storage/v1/b/{{}}/o",
        bucket,
        uploadType="media",
        name=name,
        ifGenerationMatch=was or "0",
        headers={"Content-Type": "application/octet-stream"},
        data=data,
        json_out=True,
    )
    filesystem.invalidate_cache()

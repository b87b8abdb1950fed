"""What directories of caches are called: by what was brought there. Brings nothing."""

from pathlib import Path

ON_HUB = "models--"
"""Repositories in a Hugging Face cache: `models--<org>--<name>/snapshots/<commit>`."""

AT_ADDRESS = "address--"
"""Copies of fsspec addresses: `address--<protocol>/<bucket>/<path>/<version>`."""


def called(directory: Path) -> str:
    """Repository and revision, or address, where the path has them; else the directory's name."""
    *_, repository, kind, revision = ("", "", *directory.parts)
    if kind == "snapshots" and repository.startswith(ON_HUB):
        return f"{repository.removeprefix(ON_HUB).replace('--', '/', 1)}@{revision}"
    for at, part in enumerate(directory.parts):
        if part.startswith(AT_ADDRESS):
            inside = "/".join(directory.parts[at + 1 : -1])
            return f"{part.removeprefix(AT_ADDRESS)}://{inside}"
    return directory.name

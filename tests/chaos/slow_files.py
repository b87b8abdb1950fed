"""A file system of fsspec's that reads as slowly as it is told, or fails: `slow:///path`.

The endpoint finds it as it finds that of any object store: by an entry point of an installed
package, which `Control` writes.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

CONTROL = "EXPERTPOOL_CHAOS_CONTROL"
"""The variable with the path of the file that says how reading goes."""


class SlowFiles(LocalFileSystem):
    """Local files; those of blobs as the control file says."""

    protocol = "slow"

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        if "/blobs/" in path:
            told = json.loads(Path(os.environ[CONTROL]).read_text(encoding="utf-8"))
            time.sleep(told["delay_s"])
            if told["fails"]:
                raise OSError("the storage does not answer")
        content: bytes = super().cat_file(path, start, end, **options)
        return content


class Control:
    """How reading goes, for every process that has `variables` in its environment."""

    def __init__(self, root: Path) -> None:
        self._file = root / "slow.json"
        self._packages = root / "packages"
        self.set()
        facts = self._packages / "expertpool_chaos-0.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: expertpool-chaos\nVersion: 0")
        entry = f"[fsspec.specs]\n{SlowFiles.protocol} = {__name__}:{SlowFiles.__name__}\n"
        (facts / "entry_points.txt").write_text(entry)

    def variables(self, root: Path) -> dict[str, str]:
        """root: of this repository, where the class is imported from."""
        return {CONTROL: str(self._file), "PYTHONPATH": f"{self._packages}:{root}"}

    def set(self, *, delay_s: float = 0.0, fails: bool = False) -> None:
        told = self._file.with_suffix(".new")
        told.write_text(json.dumps({"delay_s": delay_s, "fails": fails}), encoding="utf-8")
        told.replace(self._file)

"""Which tests go to one process where several run them. pytest's own `--dist loadgroup` no longer
tells: pytest-xdist 3.8 writes groups where pytest 9.2 does not read them.
"""

import re
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[2]
RAY = "ray"
MARK = re.compile(r"\bpytest\.mark\.ray\b")


class FileByFile(LoadScopeScheduling):
    """Gives a file's tests to one process, which makes their fixtures once.

    All files that start Ray go to the same one: they share an endpoint, and two of Ray's at once
    would only wait for each other.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])


@cache
def group_of(file: str) -> str:
    """The group of a file's tests. file: its path from the root."""
    return RAY if MARK.search((ROOT / file).read_text()) else file

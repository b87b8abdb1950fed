"""Where checks run: the device, the folder for results, and how long there is. Checks nothing."""

import time
from dataclasses import dataclass
from pathlib import Path

from tests.gpu_check.outcome import NeedsCudaError


@dataclass(frozen=True)
class Ground:
    """device: `cuda` or `cpu`.   out: an existing folder.   ends: when all must be done."""

    device: str
    out: Path
    ends: float

    def require_cuda(self) -> None:
        if self.device != "cuda":
            raise NeedsCudaError

    def left_s(self) -> float:
        """Seconds that are left. Raises: TimeoutError if none are."""
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError("not begun, since no time is left")
        return left

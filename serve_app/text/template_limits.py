"""What one use of a chat template may take. Limits nothing itself: see `text/process`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """What one use of a template may take.

    seconds: of processor time.   memory: bytes, beyond those of the process and eight for each byte
    of the messages. The text may have a quarter as many characters.
    """

    seconds: float = 2.0
    memory: int = 64 * 2**20

    @property
    def characters(self) -> int:
        return self.memory // 4

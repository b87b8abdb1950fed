"""What the probes in an endpoint's processes have told. Starts none: see `probe`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KINDS = ("callback", "garbage", "wait")


@dataclass(frozen=True, slots=True)
class Told:
    """part: of the endpoint.   when: by the monotonic clock.   kind: one of KINDS."""

    part: str
    when: float
    kind: str
    milliseconds: float
    what: str

    def __str__(self) -> str:
        return f"{self.part}: {self.kind} of {self.milliseconds:.0f} ms {self.what}"


def told(place: Path, parts: Mapping[int, str]) -> list[Told]:
    """parts: of processes, by their ids. What others have told is left out."""
    return [
        Told(parts[int(file.name)], float(when), kind, float(milliseconds), what)
        for file in sorted(place.iterdir())
        if int(file.name) in parts
        for when, kind, milliseconds, what in (
            line.split("\t", 3) for line in file.read_text(encoding="utf-8").splitlines()
        )
    ]

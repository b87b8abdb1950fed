"""One thing that is wrong, and the object that it is about. Finds nothing itself."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Described:
    """One object of a file.   file: as the user named it."""

    file: str
    content: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.content["kind"])

    @property
    def label(self) -> str:
        """`RayService/expertpool`."""
        return f"{self.kind}/{self.content['metadata']['name']}"

    def wrong(self, field: str, value: object, right: str) -> "Finding":
        """A mistake that the object must not have."""
        return Finding(self.file, self.label, field, value, right)

    def doubtful(self, field: str, value: object, right: str) -> "Finding":
        """Allowed, and not what one expects."""
        return Finding(self.file, self.label, field, value, right, is_error=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """about: the object.   field: a path, as `spec.template.spec`.

    value: what is there; None: nothing.   right: what should be there, and why.
    """

    file: str
    about: str
    field: str
    value: object
    right: str
    is_error: bool = True

    def __str__(self) -> str:
        there = "is missing" if self.value is None else f"is {_short(self.value)}"
        return f"{self.file}: {self.about}: {self.field} {there}: {self.right}"


def _short(value: object, most: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"

"""Where a stop string ends a text. Works only on text: the engine handles stop tokens."""

from collections.abc import Sequence


class StopMatcher:
    """Lets text through until a stop string, and never shows a part of one.

    What may be the beginning of a stop string is held back until this is clear. The stop string
    that is complete first wins. If two are complete at the same character, the longer one wins. So
    the result does not depend on how the text was cut into pieces.
    """

    __slots__ = ("_held", "_stops", "matched")

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise ValueError("a stop string must not be empty")
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Returns what may be shown now. After a match `matched` is set, and nothing is shown."""
        if self.matched is not None:
            return ""
        if not self._stops or not text:
            return text
        text = self._held + text
        match = self._first_match(text)
        if match is not None:
            start, self.matched = match
            self._held = ""
            return text[:start]
        keep = max(_beginning_at_end(text, stop) for stop in self._stops)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """If the text ended without a stop string: what was held back, to be shown after all."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, str] | None:
        found = [(text.find(stop), stop) for stop in self._stops]
        ends = [(start + len(stop), start, stop) for start, stop in found if start >= 0]
        if not ends:
            return None
        _, start, stop = min(ends)
        return start, stop


def _beginning_at_end(text: str, stop: str) -> int:
    """Length of the longest proper beginning of `stop` that `text` ends with."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0

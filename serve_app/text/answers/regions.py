"""Cuts an answer's text into the fields of its format as it comes. Reads none of them."""

from dataclasses import dataclass
from typing import Any

from transformers.utils.chat_parsing import ResponseParser

from serve_app.text.answers.response_format import ResponseFormat


@dataclass(frozen=True, slots=True)
class Opened:
    """A field begins, after `text`, in which the pattern has found `captures`."""

    field: str
    captures: dict[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class More:
    """More of the field that is open."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The field that was open has ended."""

    field: str


RegionEvent = Opened | More | Closed


class Regions:
    """transformers' streaming parser, with what it found where a field begins.

    begun: what of the answer the prompt has already.
    """

    def __init__(self, form: ResponseFormat, begun: str) -> None:
        self._parser = _Parser(form.regions, prefix="")
        self.at_first = self.feed(begun)

    def feed(self, text: str) -> list[RegionEvent]:
        """What the text that has come so far makes certain. Raises TimeoutError for a pattern that
        takes too long.
        """
        return [_event(each) for each in self._parser.feed(text)]

    def held(self) -> str:
        """What has come and may still turn out to begin or end a field."""
        return self._parser.held()

    def end(self) -> list[RegionEvent]:
        """The answer has ended."""
        _, events = self._parser.finalize()
        return [_event(each) for each in events]


class _Parser(ResponseParser):
    """Its events lack what a pattern has captured, which is what a call's name may be in."""

    def _open_explicit(self, events: list[dict[str, Any]], field: Any, m: Any) -> None:
        super()._open_explicit(events, field, m)
        events[-1] |= {"captures": self._captures, "opened": m.group()}

    def held(self) -> str:
        return self._buffer[self._pos :]


def _event(event: dict[str, Any]) -> RegionEvent:
    field = event["field"]
    if event["type"] == "region_open":
        return Opened(field, event.get("captures", {}), event.get("opened", ""))
    if event["type"] == "region_chunk":
        return More(field, event["text"])
    return Closed(field)

"""Turns an answer's text, as it comes, into content, reasoning and tool calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.protocol.messages import CallDelta
from serve_app.text.answers.calls import CallReader, Part, Unreadable, reader_of
from serve_app.text.answers.regions import Closed, More, Opened, RegionEvent, Regions
from serve_app.text.answers.response_format import CALLS, CONTENT, REASONING, ResponseFormat


@dataclass(slots=True)
class Parsed:
    """What is new. calls: in order; the first delta of a call has its name."""

    content: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)


class AnswerParser:
    """What it gives, joined, is the same however the text is cut.

    begun: what of the answer the prompt has already, of which only calls are given.
    tools: the parameters of each function that may be called; None: what looks like a call is
    content.   single: the answer is over after its first call.   plain: once content has begun,
    all that follows is content.

    A field's text is that of all its regions, without whitespace at its ends unless its template
    keeps that. What should be a call and is none is content.
    """

    def __init__(
        self,
        form: ResponseFormat,
        begun: str = "",
        tools: Mapping[str, Any] | None = None,
        *,
        single: bool = False,
        plain: bool = False,
    ) -> None:
        self._form = form if tools is not None else form.without_calls()
        self._tools = tools or {}
        self._single = single
        self._plain = plain
        self._has_content = False
        self._regions = Regions(self._form, begun)
        self._content = _Trimmed(_strips(form, CONTENT))
        self._reasoning = _Trimmed(any(_strips(form, name) for name in REASONING))
        self._field = CONTENT
        self._opening = ""
        self._reader: CallReader | None = None
        self._call_text: list[str] = []
        self.num_calls = 0
        self.is_over = False
        self._first = self._read(self._regions.at_first).calls

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next is reasoning, unless it says otherwise."""
        return self._field in REASONING

    def feed(self, text: str) -> Parsed:
        """Raises TimeoutError for a pattern of the format that takes too long."""
        if self._plain and self._has_content:
            return Parsed(self._content.add(text))
        parsed = self._told(self._regions.feed(text))
        if self._plain and parsed.content:
            self._has_content = True
            parsed.content += self._content.add(self._regions.held())
        return parsed

    def end(self) -> Parsed:
        """The answer has ended."""
        if self._plain and self._has_content:
            return Parsed()
        return self._told(self._regions.end())

    def _told(self, events: Sequence[RegionEvent]) -> Parsed:
        parsed = self._read(events)
        if self._first:
            parsed.calls, self._first = [*self._first, *parsed.calls], []
        return parsed

    def _read(self, events: Sequence[RegionEvent]) -> Parsed:
        parsed = Parsed()
        for event in events:
            if self.is_over:
                break
            match event:
                case Opened(name, captures, text):
                    self._open(name, captures, text)
                case More(name, text):
                    self._more(name, text, parsed)
                case Closed():
                    self._close(parsed)
        return parsed

    def _open(self, name: str, captures: Mapping[str, str], text: str) -> None:
        self._field = name
        if name == CALLS:
            self._reader = reader_of(self._form.fields[CALLS], captures, self._tools)
            self._call_text = [text]

    def _more(self, name: str, text: str, parsed: Parsed) -> None:
        if name == CONTENT:
            parsed.content += self._content.add(text)
        elif name in REASONING:
            parsed.reasoning += self._reasoning.add(text)
        elif self._reader is not None:
            self._call_text.append(text)
            self._tell(self._reader.feed(text), self._reader, parsed)

    def _close(self, parsed: Parsed) -> None:
        reader, self._reader = self._reader, None
        self._field = CONTENT
        if reader is None:
            return
        try:
            self._tell(reader.close(), reader, parsed)
        except Unreadable:
            parsed.content += self._content.add("".join(self._call_text))

    def _tell(self, parts: Sequence[Part], reader: CallReader, parsed: Parsed) -> None:
        for name, arguments in parts:
            if name is not None:
                if self._single and self.num_calls:
                    break
                self.num_calls += 1
            index = self.num_calls - 1
            parsed.calls.append({"index": index, "name": name, "arguments": arguments})
        self.is_over = self.is_over or (self._single and reader.num_ended > 0)


def _strips(form: ResponseFormat, name: str) -> bool:
    found = form.fields.get(name)
    return found is not None and bool(found.content_args.get("strip", True))


class _Trimmed:
    """A text without whitespace at its ends, as it comes. Without `trims`: as it is."""

    __slots__ = ("_has_begun", "_held", "_trims")

    def __init__(self, trims: bool) -> None:
        self._trims = trims
        self._has_begun = False
        self._held: list[str] = []

    def add(self, text: str) -> str:
        if not self._trims:
            return text
        if not self._has_begun:
            text = text.lstrip()
        body = text.rstrip()
        if not body:
            if self._has_begun:
                self._held.append(text)
            return ""
        shown = "".join([*self._held, body])
        self._has_begun, self._held = True, [text[len(body) :]]
        return shown

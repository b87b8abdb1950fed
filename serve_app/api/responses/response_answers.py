"""Answers to requests for responses: whole, and as the events of a stream."""

from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from serve_app.api.answers.answer import Choice, Head, Usage
from serve_app.api.answers.answer_parts import Begun, Done, Grown, Kind, PartEvent, Parts
from serve_app.api.answers.chunk_events import encoded, only_text
from serve_app.api.responses.output_items import OutputItem, Status
from serve_app.api.responses.response_body import ResponseBody
from serve_app.api.statuses import OPENAI
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Piece

_DELTAS: Mapping[Kind, str] = {
    "reasoning": "response.reasoning_text.delta",
    "text": "response.output_text.delta",
    "call": "response.function_call_arguments.delta",
}
_DONE: Mapping[Kind, tuple[str, str]] = {
    "reasoning": ("response.reasoning_text.done", "text"),
    "text": ("response.output_text.done", "text"),
    "call": ("response.function_call_arguments.done", "arguments"),
}
"""The event, and the field that has all of what came."""
_FAILURES = {"server_error": "server_error", "rate_limit_error": "rate_limit_exceeded"}
_OTHERS = "invalid_prompt"
"""Codes of failed responses, of which clients know a few alone."""


class ResponseEvents:
    """The events of one response. Each has the next number."""

    def __init__(self, body: ResponseBody, head: Head, usage: Usage) -> None:
        self._body = body
        self._head = head
        self._usage = usage
        self._parts = Parts()
        self._output = body.output(head)
        self._finish: str | None = None
        self._number = 0
        self._around: dict[Kind, tuple[str, str]] = {}

    def opening(self) -> str:
        begun = self._body.of(self._head, status="in_progress", output=[])
        kinds = ("response.created", "response.in_progress")
        return "".join(self._event(kind, response=begun) for kind in kinds)

    def piece(self, piece: Piece) -> str:
        shown = None if piece["tokens"] else only_text(piece)
        if shown is not None and shown[0] == self._parts.open:
            return self._grown(Grown(*shown))
        told = self._told(self._parts.add(piece))
        self._finish = piece["finish"]
        return told

    def ended(self) -> str:
        told = self._told(self._parts.end())
        ended = self._body.ended(self._head, self._output, self._finish, self._usage)
        return told + self._event(f"response.{ended['status']}", response=ended)

    def failed(self, error: ProtocolError) -> str:
        """What has come stays, as it is; nothing is counted."""
        status = OPENAI.statuses[error.code]
        failed = self._body.of(
            self._head,
            status="failed",
            error={"code": _FAILURES.get(status.kind, _OTHERS), "message": error.message},
            output=self._output.bodies(is_cut=True),
        )
        facts = {"code": status.code, "message": error.message, "param": error.param}
        return self._event("error", **facts) + self._event("response.failed", response=failed)

    def _told(self, events: Iterable[PartEvent]) -> str:
        return "".join(map(self._of_part, events))

    def _of_part(self, event: PartEvent) -> str:
        match event:
            case Begun():
                return self._begun(self._output.begin(event))
            case Grown():
                return self._grown(event)
            case Done():
                return self._done(self._output.items[-1])

    def _begun(self, item: OutputItem) -> str:
        self._around = {}
        added = self._event(
            "response.output_item.added", output_index=item.index, item=item.body("in_progress")
        )
        if item.call is not None:
            return added
        return added + self._event("response.content_part.added", **_place(item), part=item.part())

    def _grown(self, event: Grown) -> str:
        item = self._output.items[-1]
        logprobs = item.grow(event)
        kind = _DELTAS[item.kind]
        if logprobs:
            return self._event(kind, **_place(item), delta=event.text, logprobs=logprobs)
        number = self._next()
        before, after = self._around.get(item.kind) or self._surround(item, kind)
        return f"{before}{number}{after}{quoted(event.text)}}}\n\n"

    def _surround(self, item: OutputItem, kind: str) -> tuple[str, str]:
        """What is before the number of a delta, and between that and its text."""
        place = _place(item) | ({"logprobs": []} if item.kind == "text" else {})
        before = f'event: {kind}\ndata: {{"type":"{kind}","sequence_number":'
        after = f',{encoded(place)[1:-1]},"delta":'
        self._around[item.kind] = before, after
        return before, after

    def _done(self, item: OutputItem) -> str:
        kind, name = _DONE[item.kind]
        facts = {**_place(item), name: item.text}
        if item.kind == "text":
            facts["logprobs"] = item.logprobs or []
        told = self._event(kind, **facts)
        if item.call is None:
            told += self._event("response.content_part.done", **_place(item), part=item.part())
        status: Status = "incomplete" if self._finish == "length" else "completed"
        return told + self._event(
            "response.output_item.done", output_index=item.index, item=item.body(status)
        )

    def _event(self, kind: str, **facts: Any) -> str:
        body = {"type": kind, "sequence_number": self._next(), **facts}
        return f"event: {kind}\ndata: {encoded(body)}\n\n"

    def _next(self) -> int:
        number = self._number
        self._number += 1
        return number


def _place(item: OutputItem) -> dict[str, Any]:
    """Where in the output more of an item is. A call has one content alone."""
    place: dict[str, Any] = {"item_id": item.id, "output_index": item.index}
    return place if item.call is not None else {**place, "content_index": 0}


class ResponseAnswer:
    """`/v1/responses`."""

    def __init__(self, body: ResponseBody) -> None:
        self._body = body

    def whole(self, head: Head, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        [choice] = choices
        parts, output = Parts(), self._body.output(head)
        for piece in choice.pieces:
            output.take(parts.add(piece))
        return self._body.ended(head, output, choice.finish, usage)

    def events(self, head: Head, usage: Usage, choices: int) -> ResponseEvents:
        del choices  # there is one
        return ResponseEvents(self._body, head, usage)

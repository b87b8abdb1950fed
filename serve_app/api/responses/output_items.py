"""The items that a response is made of, while they come and when they are whole."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from serve_app.api.answers.answer_parts import Begun, Grown, Kind, PartEvent
from serve_app.api.answers.chat_answers import call_id, token_logprobs

Status = Literal["in_progress", "completed", "incomplete"]
_PREFIXES: dict[Kind, str] = {"reasoning": "rs_", "text": "msg_", "call": "fc_"}


@dataclass(slots=True)
class OutputItem:
    """One item. index: in the output.   call: the id and the function's name, if it is a call.

    logprobs: of the tokens of a text; None where none are shown.
    """

    id: str
    kind: Kind
    index: int
    call: tuple[str, str] | None
    logprobs: list[dict[str, Any]] | None
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Or the reasoning, or the arguments."""
        return "".join(self.texts)

    def grow(self, event: Grown) -> list[dict[str, Any]]:
        """The log-probabilities that it adds."""
        self.texts.append(event.text)
        if self.logprobs is None:
            return []
        more = token_logprobs(event.tokens)
        self.logprobs += more
        return more

    def part(self) -> dict[str, Any]:
        """Its only content; a call has none."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        logprobs = self.logprobs or []
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": logprobs.copy(),
        }

    def body(self, status: Status) -> dict[str, Any]:
        content = [] if status == "in_progress" else [self.part()]
        if self.call is not None:
            called, name = self.call
            return {
                "id": self.id,
                "type": "function_call",
                "status": status,
                "call_id": called,
                "name": name,
                "arguments": self.text,
            }
        if self.kind == "reasoning":
            return {
                "id": self.id,
                "type": "reasoning",
                "status": status,
                "summary": [],
                "content": content,
            }
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }


class Output:
    """The items of one response. request: its id, of which theirs are made."""

    def __init__(self, request: str, *, logprobs: bool) -> None:
        self._request = request
        self._has_logprobs = logprobs
        self.items: list[OutputItem] = []

    def begin(self, event: Begun) -> OutputItem:
        """The item that begins."""
        index, called = len(self.items), event.call
        item = OutputItem(
            id=f"{_PREFIXES[event.kind]}{self._request.rpartition('_')[2]}{index:02x}",
            kind=event.kind,
            index=index,
            call=None if called is None else (call_id(self._request, 0, called[0]), called[1]),
            logprobs=[] if self._has_logprobs else None,
        )
        self.items.append(item)
        return item

    def take(self, events: Sequence[PartEvent]) -> None:
        """What has come, where nobody is told of it yet."""
        for event in events:
            if isinstance(event, Begun):
                self.begin(event)
            elif isinstance(event, Grown):
                self.items[-1].grow(event)

    def bodies(self, *, is_cut: bool) -> list[dict[str, Any]]:
        """Of all items. is_cut: whether the last one might have gone on."""
        statuses: list[Status] = ["completed" for _ in self.items]
        if statuses and is_cut:
            statuses[-1] = "incomplete"
        return [item.body(status) for item, status in zip(self.items, statuses, strict=True)]

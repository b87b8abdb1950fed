"""The events of a stream, checked against the types of the `openai` client."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

_EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
OWN = {"store", "system_fingerprint", "bytes"}
"""Fields that the client's types lack. OpenAI sends the first, and the last with deltas."""


def strictly(found: BaseModel) -> None:
    """Fails for a field that the types do not know, wherever it is."""
    extra = set(found.__pydantic_extra__ or {})
    assert extra <= OWN, f"{type(found).__name__} has {sorted(extra)}"
    for name in type(found).model_fields:
        for each in _models(getattr(found, name)):
            strictly(each)


def _models(value: object) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _models(each)


def response_of(body: Any) -> Response:
    """As the client's types read it, with nothing coerced."""
    found = Response.model_validate_json(json.dumps(body), strict=True)
    strictly(found)
    return found


def events_of(text: str) -> list[Any]:
    """Each is named as its data says, they count from 0, and each is what the client knows."""
    assert text.endswith("\n\n")
    found = []
    for number, event in enumerate(text.removesuffix("\n\n").split("\n\n")):
        name, data = event.split("\n")
        kind = json.loads(data.removeprefix("data: "))["type"]
        assert name == f"event: {kind}"
        read = _EVENTS.validate_json(data.removeprefix("data: "), strict=True)
        strictly(read)
        assert (read.type, read.sequence_number) == (kind, number)
        found.append(read)
    return found


def replayed(events: Sequence[Any]) -> list[dict[str, Any]]:
    """The output that the deltas alone give, item by item, each ended before the next begins."""
    items: list[dict[str, Any]] = []
    is_open = False
    for event in events:
        kind = event.type
        if kind == "response.output_item.added":
            assert not is_open
            assert event.output_index == len(items)
            assert event.item.status == "in_progress"
            is_open = True
            items.append({"type": event.item.type, "id": event.item.id, "text": "", "tokens": []})
        elif kind.endswith(".delta"):
            assert is_open
            assert (event.item_id, event.output_index) == (items[-1]["id"], len(items) - 1)
            items[-1]["text"] += event.delta
            items[-1]["tokens"] += [each.token for each in getattr(event, "logprobs", ())]
        elif kind.endswith(("_text.done", "_arguments.done")):
            whole = event.arguments if kind.endswith("arguments.done") else event.text
            assert whole == items[-1]["text"]
        elif kind == "response.output_item.done":
            assert event.item.id == items[-1]["id"]
            assert event.item == _done(items[-1], event.item)
            is_open = False
    assert not is_open or events[-1].type == "response.failed"
    return items


def _done(item: dict[str, Any], told: Any) -> Any:
    """What was told of the item when it ended, if that has what came of it."""
    text = told.arguments if told.type == "function_call" else told.content[0].text
    assert text == item["text"]
    return told


def output_of(response: Any) -> list[dict[str, Any]]:
    """The output of a whole response, as `replayed` has it."""
    items = []
    for item in response.output:
        call = item.type == "function_call"
        text = item.arguments if call else item.content[0].text
        logprobs = item.content[0].logprobs if item.type == "message" else None
        tokens = [each.token for each in logprobs or ()]
        items.append({"type": item.type, "id": item.id, "text": text, "tokens": tokens})
    return items

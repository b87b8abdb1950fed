"""The shapes of answers to chats, whole and in chunks: content, reasoning, tool calls. No I/O."""

from collections.abc import Sequence
from hashlib import blake2b
from string import ascii_lowercase, digits
from typing import Any

from serve_app.api.answers.answer import LOWEST, Choice, Head, Usage, finite, joined
from serve_app.api.answers.chunk_events import ChunkEvents
from serve_app.protocol.messages import CallDelta, Piece, TokenItem

_SIGNS = digits + ascii_lowercase
_ID_LENGTH = 9
"""Mistral's chat templates refuse ids of any other length, and what is no letter and no digit."""


class ChatFormat:
    """`/v1/chat/completions`. request: the id of the request, of which those of calls are made.

    has_functions: they were offered the older way, so a call is told in the older way.
    """

    chunk_kind = "chat.completion.chunk"

    def __init__(
        self, request: str, *, logprobs: bool, include_usage: bool, has_functions: bool = False
    ) -> None:
        self._request = request
        self._has_functions = has_functions
        self.logprobs = logprobs
        self.include_usage = include_usage

    def opening(self, choice: int) -> list[dict[str, Any]]:
        return [_chunk(choice, {"role": "assistant", "content": ""})]

    def chunks(self, piece: Piece) -> list[dict[str, Any]]:
        number = piece["choice"]
        deltas: list[dict[str, Any]] = []
        if "reasoning" in piece:
            deltas.append({"reasoning_content": piece["reasoning"]})
        if piece["text"]:
            deltas.append({"content": piece["text"]})
        if "calls" in piece:
            calls = joined(piece["calls"])
            if self._has_functions:
                deltas += [{"function_call": _more_of(call)} for call in calls]
            else:
                deltas.append({"tool_calls": [self._more(number, call) for call in calls]})
        if piece["tokens"] and not deltas:
            deltas.append({"content": ""})
        chunks = [_chunk(number, delta) for delta in deltas]
        if self.logprobs and chunks:
            chunks[0]["logprobs"] = chat_logprobs(piece["tokens"])
        if piece["finish"] is not None:
            chunks.append({**_chunk(number, {}), "finish_reason": self._finish(piece["finish"])})
        return chunks

    def whole(self, head: Head, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        bodies = [
            {
                "index": index,
                "message": self._message(index, choice),
                "logprobs": chat_logprobs(choice.tokens) if self.logprobs else None,
                "finish_reason": self._finish(choice.finish),
            }
            for index, choice in enumerate(choices)
        ]
        return {**head.body("chat.completion"), "choices": bodies, "usage": self.usage(usage)}

    def usage(self, usage: Usage) -> dict[str, Any]:
        return usage.chat_body()

    def events(self, head: Head, usage: Usage, choices: int) -> ChunkEvents:
        return ChunkEvents(self, head, usage, choices)

    def _message(self, number: int, choice: Choice) -> dict[str, Any]:
        content, reasoning = choice.text, choice.reasoning
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if reasoning:
            message["reasoning_content"] = reasoning
        calls = choice.calls
        if calls:
            message["content"] = content or None
        if calls and self._has_functions:
            message["function_call"] = _function(calls[0])
        elif calls:
            message["tool_calls"] = [self._call(number, call) for call in calls]
        return message

    def _finish(self, reason: str | None) -> str | None:
        return "function_call" if reason == "tool_calls" and self._has_functions else reason

    def _call(self, number: int, call: CallDelta) -> dict[str, Any]:
        name = call_id(self._request, number, call["index"])
        return {"id": name, "type": "function", "function": _function(call)}

    def _more(self, number: int, call: CallDelta) -> dict[str, Any]:
        """Of a call that is streamed."""
        if call["name"] is not None:
            return {"index": call["index"], **self._call(number, call)}
        return {"index": call["index"], "function": {"arguments": call["arguments"]}}


def _function(call: CallDelta) -> dict[str, Any]:
    return {"name": call["name"], "arguments": call["arguments"]}


def _more_of(call: CallDelta) -> dict[str, Any]:
    """Of the only call of an answer that is streamed."""
    return _function(call) if call["name"] is not None else {"arguments": call["arguments"]}


def call_id(request: str, choice: int, index: int) -> str:
    """The id of a call: the same whenever the same request is answered."""
    digest = blake2b(f"{request} {choice} {index}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest)
    signs = []
    for _ in range(_ID_LENGTH):
        number, sign = divmod(number, len(_SIGNS))
        signs.append(_SIGNS[sign])
    return "".join(signs)


def _chunk(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def chat_logprobs(tokens: Sequence[TokenItem]) -> dict[str, Any]:
    """Of all tokens that the model wrote, those of reasoning and of calls too."""
    return {"content": token_logprobs(tokens), "refusal": None}


def token_logprobs(tokens: Sequence[TokenItem]) -> list[dict[str, Any]]:
    """Each with its alternatives, as OpenAI writes them."""
    return [
        {
            "token": token["text"],
            "logprob": finite(token["logprob"]),
            "bytes": list(token["bytes"]),
            "top_logprobs": [
                {
                    "token": alternative["text"],
                    "logprob": max(alternative["logprob"], LOWEST),
                    "bytes": list(alternative["bytes"]),
                }
                for alternative in token["top"] or []
            ],
        }
        for token in tokens
    ]

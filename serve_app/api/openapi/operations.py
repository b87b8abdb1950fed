"""What the document says of each route: what it takes, what it answers, why it may refuse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from serve_app.api.admin import ACTIONS, SECTIONS
from serve_app.api.anthropic.anthropic_errors import ANTHROPIC, COUNT_TOKENS, MESSAGES
from serve_app.api.anthropic.message_fields import CountFields, MessageFields
from serve_app.api.openapi import answer_shapes as shapes
from serve_app.api.openapi import message_shapes, response_shapes
from serve_app.api.requests.fields import (
    ChatFields,
    CompletionFields,
    DetokenizeFields,
    TokenizeFields,
)
from serve_app.api.responses.response_fields import ResponseFields
from serve_app.api.statuses import OPENAI, ErrorShape
from serve_app.protocol.errors import CODES, ErrorCode

_ALWAYS: tuple[ErrorCode, ...] = ("invalid_request", "internal_error")
_UNAVAILABLE: tuple[ErrorCode, ...] = ("loading", "draining", "engine_unavailable")
_OF_A_MODEL: tuple[ErrorCode, ...] = (*_ALWAYS, "model_not_found", *_UNAVAILABLE)
_OF_A_TEXT: tuple[ErrorCode, ...] = (
    *_OF_A_MODEL,
    "unsupported_parameter",
    "context_length_exceeded",
    "request_too_large",
)


@dataclass(frozen=True, slots=True)
class Operation:
    """answers: by status, those that are no errors. None: plain text.

    chunk: the data of each event if the answer is a stream.   or_else: what it may be instead.
    of_model: a key may not be for it.   shape, error: how errors are written, and their bodies.
    """

    summary: str
    answers: Mapping[int, Any]
    errors: Sequence[ErrorCode] = _ALWAYS
    body: type[BaseModel] | None = None
    chunk: Any = None
    or_else: str = ""
    of_model: bool = False
    takes_time: bool = False
    shape: ErrorShape = OPENAI
    error: type[BaseModel] = shapes.Error


_OPERATIONS = {
    ("POST", "/v1/completions"): Operation(
        "Continue prompts",
        {200: shapes.Completion},
        CODES,
        CompletionFields,
        shapes.CompletionChunk,
        ", an Error, or [DONE]",
        of_model=True,
        takes_time=True,
    ),
    ("POST", "/v1/chat/completions"): Operation(
        "Answer a conversation",
        {200: shapes.ChatCompletion},
        CODES,
        ChatFields,
        shapes.ChatCompletionChunk,
        ", an Error, or [DONE]",
        of_model=True,
        takes_time=True,
    ),
    ("POST", "/v1/responses"): Operation(
        "Answer a conversation in the protocol of responses",
        {200: response_shapes.Response},
        CODES,
        ResponseFields,
        response_shapes.ResponseEvent,
        of_model=True,
        takes_time=True,
    ),
    ("POST", MESSAGES): Operation(
        "Answer a conversation in Anthropic's protocol",
        {200: message_shapes.Message},
        CODES,
        MessageFields,
        message_shapes.MessageEvent,
        ", or an AnthropicError",
        of_model=True,
        takes_time=True,
        shape=ANTHROPIC,
        error=message_shapes.AnthropicError,
    ),
    ("POST", COUNT_TOKENS): Operation(
        "Count the tokens that a message's prompt has",
        {200: message_shapes.TokensCount},
        _OF_A_TEXT,
        CountFields,
        of_model=True,
        shape=ANTHROPIC,
        error=message_shapes.AnthropicError,
    ),
    ("POST", "/tokenize"): Operation(
        "Turn a text or a conversation into tokens",
        {200: shapes.TokenizeAnswer},
        _OF_A_TEXT,
        TokenizeFields,
        of_model=True,
    ),
    ("POST", "/detokenize"): Operation(
        "Turn tokens into text",
        {200: shapes.DetokenizeAnswer},
        _OF_A_TEXT,
        DetokenizeFields,
        of_model=True,
    ),
    ("GET", "/v1/models"): Operation(
        "List models",
        {200: shapes.ModelList | message_shapes.ModelInfos},
        (*_ALWAYS, *_UNAVAILABLE),
    ),
    ("GET", "/v1/models/{model}"): Operation(
        "Show one model", {200: shapes.Model | message_shapes.ModelInfo}, _OF_A_MODEL, of_model=True
    ),
    ("GET", "/health"): Operation(
        "Whether the endpoint works", {200: shapes.Health, 503: shapes.Health}
    ),
    ("GET", "/ready"): Operation(
        "Whether a release is served", {200: shapes.Ready}, (*_ALWAYS, *_UNAVAILABLE)
    ),
    ("GET", "/version"): Operation("The version of expertpool", {200: shapes.Version}),
    ("GET", "/metrics"): Operation(
        "Metrics for Prometheus", {200: None}, (*_ALWAYS, *_UNAVAILABLE)
    ),
    ("GET", "/openapi.json"): Operation("This document", {200: dict[str, Any]}),
}


def operations() -> dict[tuple[str, str], Operation]:
    """By method and path."""
    found = dict(_OPERATIONS)
    for section in SECTIONS:
        found["GET", f"/admin/{section}"] = Operation(
            f"The {section} of each replica", {200: shapes.Replicas}, (*_ALWAYS, *_UNAVAILABLE)
        )
    for action in ACTIONS:
        found["POST", f"/admin/models/{{model}}/{action}"] = Operation(
            f"{action.capitalize()} a model", {200: shapes.Changed}, CODES
        )
    return found

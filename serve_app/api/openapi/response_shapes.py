"""The bodies of responses and their events, as the document tells them. `responses` makes them.

Nothing is checked against these when it is sent; tests check that they are true.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from serve_app.api.openapi.answer_shapes import TokenLogprob
from serve_app.api.requests.fields import ReasoningEffort
from serve_app.api.responses.response_tools import AllowedTools, ResponseFunction

_ItemStatus = Literal["in_progress", "completed", "incomplete"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OutputText(_Body):
    """`logprobs`: where they were asked for; else none."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[TokenLogprob]


class ReasoningText(_Body):
    type: Literal["reasoning_text"]
    text: str


class OutputMessage(_Body):
    id: str
    type: Literal["message"]
    status: _ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningItem(_Body):
    id: str
    type: Literal["reasoning"]
    status: _ItemStatus
    summary: list[Any] = Field(max_length=0)
    content: list[ReasoningText]


class FunctionCallItem(_Body):
    """`arguments`: JSON."""

    id: str
    type: Literal["function_call"]
    status: _ItemStatus
    call_id: str
    name: str
    arguments: str


OutputItem = Annotated[
    OutputMessage | ReasoningItem | FunctionCallItem, Field(discriminator="type")
]


class ResponseFailure(_Body):
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(_Body):
    reason: Literal["max_output_tokens"]


class InputTokensDetails(_Body):
    cached_tokens: int
    cache_write_tokens: Literal[0]


class OutputTokensDetails(_Body):
    reasoning_tokens: int


class ResponseUsage(_Body):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ShownReasoning(_Body):
    effort: ReasoningEffort | None
    summary: None


class ShownText(_Body):
    format: dict[str, Any]
    verbosity: Literal["low", "medium", "high"]


class ShownTool(_Body):
    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class Response(_Body):
    id: str
    object: Literal["response"]
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    created_at: int
    model: str
    system_fingerprint: str
    service_tier: Literal["priority", "default", "flex"]
    output: list[OutputItem]
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    usage: ResponseUsage | None
    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: ShownReasoning
    safety_identifier: str | None
    store: Literal[False]
    temperature: float | None
    text: ShownText
    tool_choice: Literal["none", "auto", "required"] | ResponseFunction | AllowedTools
    tools: list[ShownTool]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"]
    user: str | None


class _Event(_Body):
    sequence_number: int


class LifecycleEvent(_Event):
    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: Response


class ItemEvent(_Event):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class PartEvent(_Event):
    type: Literal["response.content_part.added", "response.content_part.done"]
    item_id: str
    output_index: int
    content_index: Literal[0]
    part: Annotated[OutputText | ReasoningText, Field(discriminator="type")]


class TextDeltaEvent(_Event):
    type: Literal["response.output_text.delta"]
    item_id: str
    output_index: int
    content_index: Literal[0]
    delta: str
    logprobs: list[TokenLogprob]


class TextDoneEvent(_Event):
    type: Literal["response.output_text.done"]
    item_id: str
    output_index: int
    content_index: Literal[0]
    text: str
    logprobs: list[TokenLogprob]


class ReasoningDeltaEvent(_Event):
    type: Literal["response.reasoning_text.delta"]
    item_id: str
    output_index: int
    content_index: Literal[0]
    delta: str


class ReasoningDoneEvent(_Event):
    type: Literal["response.reasoning_text.done"]
    item_id: str
    output_index: int
    content_index: Literal[0]
    text: str


class ArgumentsDeltaEvent(_Event):
    type: Literal["response.function_call_arguments.delta"]
    item_id: str
    output_index: int
    delta: str


class ArgumentsDoneEvent(_Event):
    type: Literal["response.function_call_arguments.done"]
    item_id: str
    output_index: int
    arguments: str


class ErrorEvent(_Event):
    """`response.failed` follows it."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None


class ResponseEvent(
    RootModel[
        Annotated[
            LifecycleEvent
            | ItemEvent
            | PartEvent
            | TextDeltaEvent
            | TextDoneEvent
            | ReasoningDeltaEvent
            | ReasoningDoneEvent
            | ArgumentsDeltaEvent
            | ArgumentsDoneEvent
            | ErrorEvent,
            Field(discriminator="type"),
        ]
    ]
):
    """The data of one event of a stream. The event's name is its type."""

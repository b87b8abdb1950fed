"""The bodies of answers in Anthropic's protocol, as the document tells them.

`anthropic` makes them. Nothing is checked against these when it is sent; tests check that they
are true.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextBlock(_Body):
    type: Literal["text"]
    text: str


class ThinkingBlock(_Body):
    """`signature`: the same in every block; it signs nothing."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(_Body):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


AnswerBlock = Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")]
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class DeltaUsage(_Body):
    """Together, the first three are the tokens of the prompt."""

    input_tokens: int
    cache_creation_input_tokens: Literal[0]
    cache_read_input_tokens: int
    output_tokens: int


class MessageUsage(DeltaUsage):
    service_tier: Literal["priority", "standard", "batch"]


class Message(_Body):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageStart(_Body):
    """`message`: without content and end. Its usage does not know yet what the cache had."""

    type: Literal["message_start"]
    message: Message


class BlockStart(_Body):
    type: Literal["content_block_start"]
    index: int
    content_block: AnswerBlock


class TextDelta(_Body):
    type: Literal["text_delta"]
    text: str


class ThinkingDelta(_Body):
    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(_Body):
    type: Literal["signature_delta"]
    signature: str


class InputDelta(_Body):
    type: Literal["input_json_delta"]
    partial_json: str


class BlockDelta(_Body):
    type: Literal["content_block_delta"]
    index: int
    delta: Annotated[
        TextDelta | ThinkingDelta | SignatureDelta | InputDelta, Field(discriminator="type")
    ]


class BlockStop(_Body):
    type: Literal["content_block_stop"]
    index: int


class Ending(_Body):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(_Body):
    type: Literal["message_delta"]
    delta: Ending
    usage: DeltaUsage


class MessageStop(_Body):
    type: Literal["message_stop"]


class Ping(_Body):
    type: Literal["ping"]


class MessageEvent(
    RootModel[
        Annotated[
            MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping,
            Field(discriminator="type"),
        ]
    ]
):
    """The data of one event of a stream. The event's name is its type."""


class TokensCount(_Body):
    input_tokens: int


class ModelInfo(_Body):
    type: Literal["model"]
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"]
    max_input_tokens: int
    max_tokens: int


class ModelInfos(_Body):
    """What `GET /v1/models` answers to requests with the header `anthropic-version`."""

    data: list[ModelInfo]
    has_more: Literal[False]
    first_id: str | None
    last_id: str | None


class ErrorWords(_Body):
    type: str
    message: str


class AnthropicError(_Body):
    """`request_id`: not in the events of a stream."""

    type: Literal["error"]
    error: ErrorWords
    request_id: str = ""

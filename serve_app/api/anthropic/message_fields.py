"""The fields of requests for messages, their types and ranges. What they mean is in `as_chats`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from serve_app.api.anthropic.block_schemas import MESSAGES, SYSTEM
from serve_app.api.anthropic.message_blocks import messages_of, system_of
from serve_app.api.anthropic.message_tools import OfferedTools, ToolChoice
from serve_app.api.requests.fields import ModelFields

_MAX_TOP_K = 2**31 - 1
_Chat = list[dict[str, Any]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Thinking(_Strict):
    """budget_tokens: not enforced; `max_tokens` limits thinking too.

    display: whether an answer shows what was thought.
    """

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class JsonFormat(_Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(_Strict):
    """format: what the text of the answer obeys."""

    format: JsonFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class Metadata(_Strict):
    user_id: str | None = None


class ClearThinking(_Strict):
    """What of earlier thinking a model is shown, its chat template decides."""

    type: Literal["clear_thinking_20251015"]
    keep: Any = None


class ContextManagement(_Strict):
    edits: list[ClearThinking] | None = None


class CountFields(ModelFields):
    """`/v1/messages/count_tokens`: what a prompt is made of."""

    messages: Annotated[_Chat, BeforeValidator(messages_of), WithJsonSchema(MESSAGES)]
    system: Annotated[_Chat, BeforeValidator(system_of), WithJsonSchema(SYSTEM)] = Field(
        default_factory=list
    )
    tools: OfferedTools | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """Not Anthropic's: variables of the chat template."""

    cache_control: Any = None
    """Prompts are kept without being asked."""
    context_management: ContextManagement | None = None


class MessageFields(CountFields):
    """`/v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=_MAX_TOP_K)] | None = None
    stop_sequences: list[Annotated[str, Field(min_length=1)]] | None = None
    stream: bool | None = None
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    diagnostics: Any = None
    inference_geo: Any = None
    speed: Any = None
    user_profile_id: Any = None

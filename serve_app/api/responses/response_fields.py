"""The fields of requests for responses, their types and ranges. `response_job` reads them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
)

from serve_app.api.requests.fields import ReasoningEffort, SamplingFields
from serve_app.api.requests.parse import NOTHING
from serve_app.api.responses.input_items import messages_of
from serve_app.api.responses.item_schemas import INPUT
from serve_app.api.responses.response_tools import OfferedTools, ToolChoice
from serve_app.protocol.errors import unsupported

LOGPROBS = "message.output_text.logprobs"
_STORED = "answers are not stored, so send the whole conversation as 'input'"
_REFUSED: Mapping[str, str] = {
    "background": "answers are not stored, so each is sent on the connection that asked for it",
    "conversation": _STORED,
    "previous_response_id": _STORED,
    "prompt": "prompts are not stored, so send the text as 'input' or 'instructions'",
}
"""Fields that would change the answer, and why they cannot."""
_Included = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Reasoning(_Strict):
    """effort: as `reasoning_effort` of chats. The others change nothing: an answer has its
    reasoning itself, no summary, and chat templates decide what they show of earlier reasoning.
    """

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None


def _plain(value: object) -> object:
    if value not in (None, {"type": "text"}):
        raise unsupported("text.format", '\'text.format\': only {"type": "text"} is supported')
    return value


class PlainText(_Strict):
    type: Literal["text"]


class TextOptions(_Strict):
    """verbosity: changes nothing."""

    format: Annotated[PlainText | None, BeforeValidator(_plain)] = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponseStreamOptions(_Strict):
    """Accepted for compatibility; nothing is padded."""

    include_obfuscation: bool | None = None


def _asks_nothing(value: object, info: ValidationInfo) -> None:
    name = str(info.field_name)
    if value not in NOTHING:
        raise unsupported(name, f"'{name}' is not supported here: {_REFUSED[name]}")


_Refused = Annotated[None, BeforeValidator(_asks_nothing), WithJsonSchema({"enum": [*NOTHING]})]
"""A field that may only ask for nothing."""


class ResponseFields(SamplingFields):
    """`/v1/responses`. What chats have and responses lack, such as `top_k` and `stop`, is a field
    too.
    """

    input: Annotated[list[dict[str, Any]], BeforeValidator(messages_of), WithJsonSchema(INPUT)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: OfferedTools | None = None
    tool_choice: ToolChoice | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    include: list[_Included] | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    stream_options: ResponseStreamOptions | None = None

    background: _Refused = None
    conversation: _Refused = None
    previous_response_id: _Refused = None
    prompt: _Refused = None

    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    """Nothing is left out: what is too long is refused."""
    max_tool_calls: Any = None
    """Of tools that OpenAI would run itself."""
    prompt_cache_options: Any = None

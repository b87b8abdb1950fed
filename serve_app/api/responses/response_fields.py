"""The fields of requests for responses, their types and ranges. `response_job` reads them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
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


class TextFormat(_Strict):
    """What the texts of an answer must obey: JSON, or JSON by a schema.

    strict: makes no difference, as every schema is obeyed.
    """

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(max_length=64)] | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(alias="schema", default=None)
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> Self:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise ValueError("'schema' goes with the type 'json_schema', and with no other")
        return self

    def shown(self) -> dict[str, Any]:
        """As the answer repeats it, and as a schema is written in a chat but for its type."""
        return self.model_dump(by_alias=True, exclude_none=True)

    def for_chat(self) -> dict[str, Any]:
        if self.schema_ is None:
            return {"type": self.type}
        schema = {name: value for name, value in self.shown().items() if name != "type"}
        return {"type": self.type, "json_schema": schema}


class TextOptions(_Strict):
    """verbosity: changes nothing."""

    format: TextFormat | None = None
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

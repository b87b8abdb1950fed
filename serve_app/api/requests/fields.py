"""The fields of each request, their types and ranges. The operator's caps are in `jobs`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from serve_app.api.requests.body import LARGEST_TOKEN
from serve_app.api.requests.constraints import ResponseFormat, StructuredOutputs
from serve_app.api.requests.histories import Messages
from serve_app.api.requests.offered_tools import (
    Function,
    FunctionCall,
    NamedFunction,
    NamedTool,
    Tool,
    ToolChoice,
    check_call,
    check_choice,
    no_function_twice,
    without_twins,
)
from serve_app.protocol.errors import bad_request, unsupported

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0, le=LARGEST_TOKEN)]


def _stops(value: object) -> object:
    """A string or a list of strings -> a list."""
    return [value] if isinstance(value, str) else value


def _biases(value: object) -> object:
    """JSON keys are always strings; these are token ids. {"50256": -100} -> {50256: -100}"""
    if not isinstance(value, Mapping):
        return value
    biases: dict[object, object] = {}
    for key, bias in value.items():
        if not (
            isinstance(key, str) and key.isascii() and key.isdigit() and int(key) <= LARGEST_TOKEN
        ):
            raise ValueError(f"'{key}' is not a token id")
        biases[int(key)] = bias
    return biases


def _prompts(value: object) -> list[str | bytes]:
    """A string, strings, packed tokens or a list of those -> a list of prompts."""
    if isinstance(value, str | bytes):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("must be a string, or a non-empty list of strings or of token ids")
    if all(isinstance(item, str) for item in value):
        return list(value)
    if all(isinstance(item, bytes) for item in value):
        return list(value)
    raise ValueError("must be a string, a list of strings, a list of token ids or a list of those")


def _tokens(value: object) -> bytes:
    """Those that are tokens are packed by now."""
    if value == []:
        return b""
    if isinstance(value, bytes):
        return value
    raise ValueError(f"must be a list of token ids from 0 to {LARGEST_TOKEN}")


_ONE_TOKEN = {"type": "integer", "minimum": 0, "maximum": LARGEST_TOKEN}
_ANY_TOKENS = {"type": "array", "items": _ONE_TOKEN}
_SOME_TOKENS = {"type": "array", "minItems": 1, "items": _ONE_TOKEN}
_SOME_TEXTS = {"type": "array", "minItems": 1, "items": {"type": "string"}}
_LISTS_OF_TOKENS = {"type": "array", "minItems": 1, "items": _SOME_TOKENS}
Prompts = Annotated[
    list[str | bytes],
    BeforeValidator(_prompts),
    WithJsonSchema({"anyOf": [{"type": "string"}, _SOME_TEXTS, _SOME_TOKENS, _LISTS_OF_TOKENS]}),
]
_Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(_stops),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}},
            ]
        }
    ),
]
_Biases = Annotated[
    dict[int, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_biases),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        }
    ),
]


class ModelFields(BaseModel):
    """What every request has."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str = Field(min_length=1)


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Accepted for compatibility; nothing is padded."""


class _WithoutEffect(BaseModel):
    """What clients send that changes nothing here: what OpenAI would keep, bill or cache by, and
    hints that its models follow."""

    metadata: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    store: Any = None
    verbosity: Any = None


class SamplingFields(ModelFields, _WithoutEffect):
    """What every request for text has. None: the model's own default."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=LARGEST_TOKEN)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: _Biases | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: _Stops | None = None
    stop_token_ids: list[TokenId] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    stream: bool | None = None
    stream_options: BaseModel | None = None
    priority: Annotated[int, Field(ge=-LARGEST_TOKEN, le=LARGEST_TOKEN)] | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "fast"] | None = None

    structured_outputs: StructuredOutputs | None = None

    parallel_tool_calls: bool | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise bad_request(
                "'stream_options' is only allowed when 'stream' is true", "stream_options"
            )
        return self


class GenerationFields(SamplingFields):
    """What completions and chats have."""

    n: Annotated[int, Field(ge=1)] | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionFields(GenerationFields):
    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _best_of_is_n(self) -> Self:
        n = self.n or 1
        if self.best_of is not None and self.best_of > n:
            raise unsupported("best_of", f"'best_of' {self.best_of} above n {n} is not supported")
        if self.best_of is not None and self.best_of < n:
            raise bad_request(f"'best_of' {self.best_of} must not be below n {n}", "best_of")
        return self


class _Conversation(BaseModel):
    """What a chat is rendered from."""

    tools: Annotated[list[Tool], AfterValidator(without_twins)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    """Whether the answer's beginning is rendered; by default it is, unless a message goes on."""
    continue_final_message: bool | None = None
    """Whether the answer goes on where the last message, which is an assistant's, ends."""
    messages: Messages | None = None

    @property
    def offered(self) -> Sequence[Tool]:
        return self.tools or ()

    @model_validator(mode="after")
    def _goes_on_or_begins(self) -> Self:
        if not self.continue_final_message:
            return self
        if self.add_generation_prompt:
            raise bad_request(
                "Give either 'continue_final_message' or 'add_generation_prompt', not both",
                "continue_final_message",
            )
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise bad_request(
                "'continue_final_message' needs a last message of the role 'assistant'",
                "continue_final_message",
            )
        return self


class ChatFields(GenerationFields, _Conversation):
    messages: Messages
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    tool_choice: ToolChoice | None = None
    functions: Annotated[list[Function], AfterValidator(no_function_twice)] | None = None
    """The older form of `tools`, whose answer has one call at most."""
    function_call: FunctionCall | None = None
    """The older form of `tool_choice`."""
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise bad_request(
                "'top_logprobs' is only allowed when 'logprobs' is true", "top_logprobs"
            )
        return self

    @model_validator(mode="after")
    def _a_tool_that_is_chosen_is_offered(self) -> Self:
        if self.functions is not None and self.tools is not None:
            raise bad_request("Give either 'tools' or 'functions', not both", "functions")
        check_choice(self.tool_choice, self.tools or [])
        check_call(self.function_call, self.functions or [])
        return self

    @property
    def offered(self) -> Sequence[Tool]:
        """Under either of their names."""
        if not self.functions:
            return super().offered
        return [Tool(type="function", function=each) for each in self.functions]

    @property
    def chosen(self) -> ToolChoice | None:
        """By either of its names."""
        if not isinstance(self.function_call, NamedFunction):
            return self.tool_choice if self.function_call is None else self.function_call
        return NamedTool(type="function", function=self.function_call)


class TokenizeFields(ModelFields, _Conversation):
    """Either `prompt` or `messages`."""

    prompt: str | None = None
    add_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise bad_request("Give either 'prompt' or 'messages'", "prompt")
        return self


class DetokenizeFields(ModelFields):
    tokens: Annotated[bytes, BeforeValidator(_tokens), WithJsonSchema(_ANY_TOKENS)]

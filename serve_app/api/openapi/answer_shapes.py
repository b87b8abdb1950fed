"""The bodies of answers, as the document tells them. `answers` and `routes` make them.

Nothing is checked against these when it is sent; tests check that they are true.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from serve_app.protocol.messages import ModelKind

_Finish = Literal["stop", "length"] | None
_ChatFinish = Literal["stop", "length", "tool_calls", "function_call"] | None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Answer(_Body):
    """What answers and chunks have in common."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    service_tier: Literal["priority", "default", "flex"]


class PromptTokensDetails(_Body):
    cached_tokens: int


class Usage(_Body):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionTokensDetails(_Body):
    """`reasoning_tokens`: those of reasoning and of its markers."""

    reasoning_tokens: int


class ChatUsage(Usage):
    completion_tokens_details: CompletionTokensDetails


class CompletionLogprobs(_Body):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(_Body):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: _Finish


class Completion(_Answer):
    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(_Answer):
    """The data of one event of a stream. `usage`: with `include_usage`, null but in the last."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(_Body):
    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(_Body):
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(_Body):
    content: list[TokenLogprob]
    refusal: None


class CalledFunction(_Body):
    """`arguments`: JSON."""

    name: str
    arguments: str


class ToolCall(_Body):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(_Body):
    """`reasoning_content`, `tool_calls`: where there are any. `content`: null only beside calls.
    `function_call`: the only call, where `functions` were offered.
    """

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str = ""
    tool_calls: list[ToolCall] = []
    function_call: CalledFunction | None = None


class ChatChoice(_Body):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: _ChatFinish


class ChatCompletion(_Answer):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: ChatUsage


class FunctionDelta(_Body):
    """The name comes once, where the call begins."""

    name: str | None = None
    arguments: str


class ToolCallDelta(_Body):
    """`id`, `type` and the name come once, where the call begins."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(_Body):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] = []
    function_call: FunctionDelta | None = None


class ChatChunkChoice(_Body):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: _ChatFinish


class ChatCompletionChunk(_Answer):
    """The data of one event of a stream. `usage`: with `include_usage`, null but in the last."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: ChatUsage | None = None


class TokenizeAnswer(_Body):
    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeAnswer(_Body):
    prompt: str


class Model(_Body):
    id: str
    object: Literal["model"]
    root: str
    kind: ModelKind
    created: int
    owned_by: str
    max_model_len: int
    max_prompt_len: int
    response_template: str | None
    release: str


class ModelList(_Body):
    object: Literal["list"]
    data: list[Model]


class Health(_Body):
    """`release`, `detail`: for keys with the scope `metrics` or `admin`."""

    status: Literal["ok", "unhealthy"]
    release: str | None = None
    detail: dict[str, Any] | None = None


class Ready(_Body):
    status: Literal["ready"]
    release: str | None = None


class Version(_Body):
    version: str


class ErrorFacts(_Body):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(_Body):
    error: ErrorFacts


class Replicas(_Body):
    """Each entry names its replica, and has what was asked about."""

    replicas: list[dict[str, Any]]


class Changed(_Body):
    model: str
    action: str
    replicas: list[dict[str, Any]]

"""Makes of a request for a response the chat that it stands for, and the same job."""

from typing import Any

from serve_app.api.requests.fields import ChatFields
from serve_app.api.requests.jobs import chat_job
from serve_app.api.responses.response_fields import LOGPROBS, ResponseFields
from serve_app.api.responses.response_tools import chosen_of
from serve_app.config import RequestLimits
from serve_app.protocol.messages import Job
from serve_app.tenants.keyring import Caller

_ALIKE = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "skip_special_tokens",
    "stream",
    "priority",
    "service_tier",
    "parallel_tool_calls",
    "user",
    "chat_template_kwargs",
    "structured_outputs",
)
"""Fields that chats have under the same name."""
OWN_WORDS = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "tools[].function.name": "tools[].name",
}
"""What errors call a field of the chat, and what a client knows it as."""


def response_job(
    fields: ResponseFields,
    limits: RequestLimits,
    *,
    job: str,
    caller: Caller,
    timeout_s: float | None = None,
) -> Job:
    """Raises ProtocolError 400 where a cap is exceeded, 403 where the class is above the key's."""
    chat = ChatFields.model_validate(_chat(fields))
    return chat_job(chat, limits, job=job, caller=caller, timeout_s=timeout_s)


def _chat(fields: ResponseFields) -> dict[str, Any]:
    chosen, tools = chosen_of(fields.tool_choice, fields.tools or ())
    told = [] if fields.instructions is None else [fields.instructions]
    made = {name: getattr(fields, name) for name in _ALIKE}
    shows_logprobs = bool(fields.top_logprobs) or LOGPROBS in (fields.include or ())
    biases = fields.logit_bias or {}
    form = None if fields.text is None else fields.text.format
    return {
        **made,
        "logit_bias": {str(token): bias for token, bias in biases.items()},
        "messages": [*({"role": "system", "content": text} for text in told), *fields.input],
        "tools": [tool.for_chat() for tool in tools] or None,
        "tool_choice": chosen,
        "max_completion_tokens": fields.max_output_tokens,
        "reasoning_effort": None if fields.reasoning is None else fields.reasoning.effort,
        "response_format": None if form is None else form.for_chat(),
        "logprobs": shows_logprobs,
        "top_logprobs": fields.top_logprobs if shows_logprobs else None,
    }

"""Makes of a request for a message the chat that it stands for, and the same job."""

from typing import Any

from serve_app.api.anthropic.message_fields import CountFields, MessageFields
from serve_app.api.requests.fields import ChatFields
from serve_app.api.requests.jobs import REASONING_SWITCHES, chat_job
from serve_app.config import RequestLimits
from serve_app.protocol.messages import Job, TokenizeJob
from serve_app.tenants.keyring import Caller

_TIERS = {"auto": "auto", "standard_only": "default"}
OWN_WORDS = {
    "response_format": "output_config.format",
    "stop": "stop_sequences",
    "tools[].function.name": "tools[].name",
}
"""What errors call a field of the chat, and what a client knows it as."""


def message_job(
    fields: MessageFields,
    limits: RequestLimits,
    *,
    job: str,
    caller: Caller,
    timeout_s: float | None = None,
) -> Job:
    """Raises ProtocolError 400 where a cap is exceeded."""
    chat = ChatFields.model_validate({**_chat(fields), **_answer(fields)})
    return chat_job(chat, limits, job=job, caller=caller, timeout_s=timeout_s)


def count_job(fields: CountFields, limits: RequestLimits, caller: Caller) -> TokenizeJob:
    """Raises ProtocolError 400 for what a message is refused for."""
    chat = ChatFields.model_validate(_chat(fields))
    conversation = chat_job(chat, limits, job="", caller=caller)["chat"]
    return {
        "tenant": caller.name,
        "model": fields.model,
        "prompt": None,
        "chat": conversation,
        "add_special_tokens": True,
    }


def _chat(fields: CountFields) -> dict[str, Any]:
    """What the prompt is made of. An answer goes on where the last message is an assistant's."""
    made: dict[str, Any] = {
        "model": fields.model,
        "messages": [*fields.system, *fields.messages],
        "continue_final_message": fields.messages[-1]["role"] == "assistant",
        "chat_template_kwargs": {**_switches(fields), **(fields.chat_template_kwargs or {})},
    }
    if fields.tools:
        made["tools"] = [tool.for_chat() for tool in fields.tools]
    if fields.tool_choice is not None:
        made["tool_choice"] = fields.tool_choice.for_chat()
        made["parallel_tool_calls"] = not fields.tool_choice.disable_parallel_tool_use
    effort = None if fields.output_config is None else fields.output_config.effort
    if effort is not None:
        made["reasoning_effort"] = effort
    return made


def _switches(fields: CountFields) -> dict[str, bool]:
    """What a template that can be told whether to reason is told; nothing if nothing is asked."""
    if fields.thinking is None:
        return {}
    return dict.fromkeys(REASONING_SWITCHES, fields.thinking.type != "disabled")


def _answer(fields: MessageFields) -> dict[str, Any]:
    form = None if fields.output_config is None else fields.output_config.format
    schema = (
        None if form is None else {"type": "json_schema", "json_schema": {"schema": form.schema_}}
    )
    return {
        "response_format": schema,
        "max_tokens": fields.max_tokens,
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "top_k": fields.top_k,
        "stop": fields.stop_sequences,
        "stream": fields.stream,
        "service_tier": _TIERS[fields.service_tier or "auto"],
        "user": None if fields.metadata is None else fields.metadata.user_id,
    }

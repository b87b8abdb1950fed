"""Makes of a request for a message the chat that it stands for, and the same job."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from serve_app.api.anthropic.message_fields import CountFields, MessageFields
from serve_app.api.requests.fields import ChatFields
from serve_app.api.requests.jobs import REASONING_SWITCHES, chat_job
from serve_app.config import RequestLimits
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Job, TokenizeJob
from serve_app.tenants.keyring import Caller

_TIERS = {"auto": "auto", "standard_only": "default"}
_EFFORTS = {"max": "xhigh"}
"""What chats call it, where that is another word."""
_FORMAT = "output_config.format"
_OWN_WORDS = (
    ("'response_format'", f"'{_FORMAT}'"),
    ("'continue_final_message'", "a last message of the assistant"),
    ("'stop'", "'stop_sequences'"),
    ("'stop[", "'stop_sequences["),
    (".function.name", ".name"),
)


def message_job(
    fields: MessageFields,
    limits: RequestLimits,
    *,
    job: str,
    caller: Caller,
    timeout_s: float | None = None,
) -> Job:
    """Raises ProtocolError 400 where a cap is exceeded."""
    with _in_own_words():
        chat = ChatFields.model_validate({**_chat(fields), **_answer(fields)})
        made = chat_job(chat, limits, job=job, caller=caller, timeout_s=timeout_s)
    if made["constraint"] is not None:
        made["constraint"] = {**made["constraint"], "param": _FORMAT}
    return made


def count_job(fields: CountFields, limits: RequestLimits, caller: Caller) -> TokenizeJob:
    """Raises ProtocolError 400 for what a message is refused for."""
    with _in_own_words():
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
        made["reasoning_effort"] = _EFFORTS.get(effort, effort)
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


@contextmanager
def _in_own_words() -> Iterator[None]:
    """Errors of a chat name its fields: they get the names that the client has used."""
    try:
        yield
    except ProtocolError as error:
        message, param = error.message, f"'{error.param}'"
        for words in _OWN_WORDS:
            message, param = message.replace(*words), param.replace(*words)
        own = None if error.param is None else param[1:-1]
        raise ProtocolError(error.code, message, own, error.retry_after_s) from error

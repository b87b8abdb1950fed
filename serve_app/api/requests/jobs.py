"""Turns checked fields into a `Job`, within the operator's caps. Models' defaults come later."""

import secrets
from typing import Any

from serve_app.api.requests.constraints import constraint_of
from serve_app.api.requests.fields import (
    ChatFields,
    CompletionFields,
    DetokenizeFields,
    GenerationFields,
    TokenizeFields,
)
from serve_app.api.requests.offered_tools import forced_by
from serve_app.config import RequestLimits
from serve_app.protocol.errors import bad_request, tier_not_allowed
from serve_app.protocol.messages import Conversation, DetokenizeJob, Job, TokenizeJob, Whose, Wishes
from serve_app.service_class import ServiceClass
from serve_app.tenants.keyring import Caller

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)

REASONING_SWITCHES = ("enable_thinking", "thinking")
"""What templates call it: Qwen's and GLM's the one, DeepSeek's and Granite's the other."""
_CLASSES = {
    "priority": ServiceClass.INTERACTIVE,
    "fast": ServiceClass.INTERACTIVE,
    "default": ServiceClass.STANDARD,
    "flex": ServiceClass.BATCH,
}
"""By `service_tier`, as OpenAI has it. `fast` is another word for `priority`."""
TIERS = {
    ServiceClass.INTERACTIVE: "priority",
    ServiceClass.STANDARD: "default",
    ServiceClass.BATCH: "flex",
}
"""What an answer says of its class."""


def completion_job(
    fields: CompletionFields,
    limits: RequestLimits,
    *,
    job: str,
    caller: Caller,
    timeout_s: float | None = None,
) -> Job:
    """Raises ProtocolError 400 where a cap is exceeded, 403 where the class is above the key's."""
    _cap("prompt", len(fields.prompt), limits.prompts)
    _cap("n", len(fields.prompt) * (fields.n or 1), limits.choices)
    if fields.logprobs is not None:
        _cap("logprobs", fields.logprobs, limits.logprobs)
    if fields.max_tokens == 0 and not fields.echo:
        raise bad_request("Invalid 'max_tokens': 0 is only allowed with 'echo'", "max_tokens")
    shared = _shared(fields, limits, fields.max_tokens, timeout_s, caller)
    return {
        **shared,
        "id": job,
        "request": job,
        **_whose(caller),
        "user": fields.user,
        "release": None,
        "prompts": fields.prompt,
        "chat": None,
        "constraint": constraint_of(None, fields.structured_outputs),
        "max_tokens": fields.max_tokens,
        "logprobs": fields.logprobs,
        "echo": bool(fields.echo),
    }


def chat_job(
    fields: ChatFields,
    limits: RequestLimits,
    *,
    job: str,
    caller: Caller,
    timeout_s: float | None = None,
) -> Job:
    """Raises ProtocolError 400 where a cap is exceeded, 403 where the class is above the key's."""
    _cap("messages", len(fields.messages), limits.messages)
    _cap("functions" if fields.functions else "tools", len(fields.offered), limits.tools)
    top = fields.top_logprobs or 0
    _cap("top_logprobs", top, limits.logprobs)
    max_tokens = fields.max_completion_tokens or fields.max_tokens
    constraint = constraint_of(fields.response_format, fields.structured_outputs)
    if constraint is not None and fields.continue_final_message:
        param = constraint["param"].partition(".")[0]
        raise bad_request(f"'{param}' does not go with a last message that is continued", param)
    shared = _shared(fields, limits, max_tokens, timeout_s, caller)
    return {
        **shared,
        "id": job,
        "request": job,
        **_whose(caller),
        "user": fields.user,
        "release": None,
        "prompts": [],
        "chat": _chat(fields),
        "constraint": constraint,
        "max_tokens": max_tokens,
        "logprobs": top if fields.logprobs else None,
        "echo": False,
    }


def _chat(fields: ChatFields) -> Conversation:
    """Without reasoning, where templates can be told so. A request that allows one call, or names
    it, or offers `functions`, has one.
    """
    chat = _conversation(fields, fields.messages)
    effort = fields.reasoning_effort
    if effort is not None:
        off = dict.fromkeys(REASONING_SWITCHES, False)
        asked = off if effort == "none" else {"reasoning_effort": effort}
        chat["variables"] = {**asked, **chat["variables"]}
    if fields.chosen == "none":
        chat["tools"] = []
    chat["forced"] = forced_by(fields.chosen)
    is_single = bool(fields.functions) or fields.parallel_tool_calls is False
    chat["single"] = bool(chat["forced"]) or is_single
    return chat


def _conversation(
    fields: ChatFields | TokenizeFields, messages: list[dict[str, Any]]
) -> Conversation:
    continues = bool(fields.continue_final_message)
    prompted = fields.add_generation_prompt
    return {
        "messages": messages,
        "tools": [tool.for_template() for tool in fields.offered],
        "strict": [tool.function.name for tool in fields.offered if tool.function.strict],
        "forced": None,
        "single": False,
        "variables": fields.chat_template_kwargs or {},
        "generation_prompt": not continues if prompted is None else prompted,
        "continues": continues,
    }


def tokenize_job(fields: TokenizeFields, caller: Caller) -> TokenizeJob:
    return {
        "tenant": caller.name,
        "model": fields.model,
        "prompt": fields.prompt,
        "chat": None if fields.messages is None else _conversation(fields, fields.messages),
        "add_special_tokens": fields.add_special_tokens is not False,
    }


def detokenize_job(fields: DetokenizeFields, caller: Caller) -> DetokenizeJob:
    return {"tenant": caller.name, "model": fields.model, "tokens": fields.tokens}


def _whose(caller: Caller) -> Whose:
    return {
        "tenant": caller.name,
        "weight": caller.tenant.weight,
        "prompt_limit": caller.tenant.prompt_tokens,
        "answer_limit": caller.tenant.answer_tokens,
        "open_choices": caller.tenant.open_choices,
        "open_tokens": caller.tenant.open_tokens,
    }


def _service_class(tier: str | None, highest: ServiceClass) -> ServiceClass:
    """`auto`, or nothing: standard, unless the highest that the tenant may have is batch."""
    asked = _CLASSES.get(tier or "auto")
    if asked is None:
        return max(ServiceClass.STANDARD, highest, key=lambda each: each.order)
    if asked.order < highest.order:
        raise tier_not_allowed(tier or "auto", TIERS[highest])
    return asked


def _shared(
    fields: GenerationFields,
    limits: RequestLimits,
    max_tokens: int | None,
    timeout_s: float | None,
    caller: Caller,
) -> Wishes:
    stops, stop_ids = fields.stop or [], fields.stop_token_ids or []
    biases, min_tokens = fields.logit_bias or {}, fields.min_tokens or 0
    _cap("n", fields.n or 1, limits.n)
    _cap("stop", len(stops), limits.stop)
    for index, stop in enumerate(stops):
        _cap(f"stop[{index}]", len(stop), limits.stop_chars, "characters")
    _cap("stop_token_ids", len(stop_ids), limits.stop_token_ids)
    _cap("logit_bias", len(biases), limits.logit_bias)
    if max_tokens is not None and min_tokens > max_tokens:
        raise bad_request(
            f"Invalid 'min_tokens': {min_tokens} is above max_tokens {max_tokens}", "min_tokens"
        )
    named = {name: getattr(fields, name) for name in _SAMPLING}
    return {
        "model": fields.model,
        "service_class": _service_class(fields.service_tier, caller.tenant.highest_class),
        "priority": fields.priority or 0,
        "n": fields.n or 1,
        "min_tokens": min_tokens,
        "sampling": {name: value for name, value in named.items() if value is not None},
        "seed": secrets.randbits(63) if fields.seed is None else fields.seed,
        "logit_bias": dict(biases),
        "stop": list(stops),
        "stop_token_ids": list(stop_ids),
        "ignore_eos": bool(fields.ignore_eos),
        "skip_special_tokens": fields.skip_special_tokens is not False,
        "streamed": bool(fields.stream),
        "timeout_s": timeout_s,
    }


def _cap(param: str, value: int, limit: int, unit: str = "") -> None:
    if value > limit:
        what = f"{value} {unit}".strip()
        raise bad_request(f"Invalid '{param}': {what} is above the limit of {limit}", param)

"""The fields of a response beside its output: what was asked for, how it ended, what it took."""

from typing import Any

from serve_app.api.answers.answer import Head, Usage
from serve_app.api.responses.output_items import Output
from serve_app.api.responses.response_fields import ResponseFields


class ResponseBody:
    """Of all answers to one request. logprobs: whether log-probabilities are shown."""

    def __init__(self, fields: ResponseFields, *, logprobs: bool) -> None:
        self._asked = _asked(fields)
        self._logprobs = logprobs

    def output(self, head: Head) -> Output:
        """Nothing of it has come."""
        return Output(head.id, logprobs=self._logprobs)

    def of(self, head: Head, **told: Any) -> dict[str, Any]:
        """With what is told of this one."""
        return {
            "id": head.id,
            "object": "response",
            "created_at": head.created,
            "model": head.model,
            "service_tier": head.service_tier,
            "system_fingerprint": head.release,
            **self._asked,
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **told,
        }

    def ended(self, head: Head, output: Output, finish: str | None, usage: Usage) -> dict[str, Any]:
        """The model has ended it, or the most tokens that it may have are there."""
        is_cut = finish == "length"
        return self.of(
            head,
            status="incomplete" if is_cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if is_cut else None,
            output=output.bodies(is_cut=is_cut),
            usage=_usage(usage),
        )


def _asked(fields: ResponseFields) -> dict[str, Any]:
    """What a response repeats of its request. None: the model's own default, as far as it has one.

    What is stored is the exception: it says what is done, whatever was asked for.
    """
    reasoning, text = fields.reasoning, fields.text
    form = None if text is None else text.format
    choice = fields.tool_choice or "auto"
    return {
        "background": False,
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "max_tool_calls": None,
        "metadata": fields.metadata or {},
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": fields.prompt_cache_key,
        "reasoning": {"effort": reasoning and reasoning.effort, "summary": None},
        "safety_identifier": fields.safety_identifier,
        "store": False,
        "temperature": fields.temperature,
        "text": {
            "format": {"type": "text"} if form is None else form.shown(),
            "verbosity": (text and text.verbosity) or "medium",
        },
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [tool.shown() for tool in fields.tools or ()],
        "top_logprobs": fields.top_logprobs or 0,
        "top_p": fields.top_p,
        "truncation": "disabled",
        "user": fields.user,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.num_prompt,
        "input_tokens_details": {"cached_tokens": usage.num_cached, "cache_write_tokens": 0},
        "output_tokens": usage.num_answered,
        "output_tokens_details": {"reasoning_tokens": usage.num_reasoning},
        "total_tokens": usage.num_prompt + usage.num_answered,
    }

"""A model's chat template, and what it writes. A template is a program: see `text/process`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_NOT_FOR_TEMPLATES = frozenset(
    {
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """source: as the model came with it, not checked.   special: names and texts of tokens."""

    source: Any
    special: Mapping[str, str]


def forbidden(variables: Mapping[str, Any]) -> str | None:
    """The first variable that a client must not give to a template, if there is one."""
    return next((name for name in sorted(variables) if name in _NOT_FOR_TEMPLATES), None)


def render(
    template: ChatTemplate, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]
) -> str:
    """The text of a conversation, up to the beginning of the answer, as transformers writes it.

    variables: those of the template, and `add_generation_prompt`, `continue_final_message` and
    `tools` as transformers takes them. Without any limit. Raises whatever the template raises.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    options = {"add_generation_prompt": True, **template.special, **variables}
    rendered: Any = render_jinja_template(
        conversations=[[_without_nothing(message) for message in messages]],
        chat_template=template.source,
        **options,
    )
    return str(rendered[0][0])


def _without_nothing(message: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if value is not None}

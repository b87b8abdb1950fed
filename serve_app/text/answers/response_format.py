"""How a family of models writes its answers: a response template of transformers, and what else
serving needs to know of the format. Parses no answer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from transformers.utils.chat_parsing.response_templates import (
    ResponseTemplate,
    ResponseTemplateField,
    load_response_template,
)

from serve_app.text.errors import BadResponseTemplate

CONTENT = "content"
CALLS = "tool_calls"
REASONING = frozenset({"reasoning_content", "reasoning", "thinking"})
_KEYS = {"about", "markers", "tokens", "forced", "arguments", "call_ids", "response_template"}
_LONGEST_S = 0.05
"""Processor time of one search. A pattern that takes longer would hold up everybody's answers."""


@dataclass(frozen=True, slots=True)
class Forced:
    """How an answer is made to begin with a call: what it is given to continue.

    open: up to the function's name.   after_name: up to its arguments.   after_reasoning: in front
    of `open`, where the prompt ends within the reasoning.
    """

    open: str
    after_name: str
    after_reasoning: str


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """fields: of the template, by name, as it says how to read each.

    regions: the same template, for who only wants to know where a field begins and ends.
    markers, tokens: are in the chat template, and in the vocabulary, of who writes so.
    arguments: of calls in a history, as the chat template wants them.
    call_ids: the ids of calls in a history, with their `{name}` and `{number}`, if they must be so.
    words: all that the patterns and literals of the fields are made of.
    """

    name: str
    fields: Mapping[str, ResponseTemplateField]
    regions: ResponseTemplate
    markers: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    forced: Forced | None = None
    arguments: Literal["object", "text"] = "object"
    call_ids: str = ""
    words: str = ""

    @property
    def has_calls(self) -> bool:
        return CALLS in self.fields

    def begun(self, prompt: str) -> str:
        """What of the answer the prompt has already; nothing if no answer begins in it."""
        end = max(
            (found.end() for found in self.regions.start_anchor_re.finditer(prompt)), default=-1
        )
        return prompt[end:] if end >= 0 else ""

    def without_calls(self) -> "ResponseFormat":
        """For a request that offers no tools: what looks like a call is content."""
        regions = replace(
            self.regions,
            fields={name: each for name, each in self.regions.fields.items() if name != CALLS},
        )
        return replace(self, regions=regions)


def read_format(name: str, given: Any) -> ResponseFormat:
    """given: a response template as transformers has it, or an object of `_KEYS` with one.

    Raises BadResponseTemplate, which says what is wrong with it.
    """
    if not isinstance(given, dict):
        raise BadResponseTemplate(f"{name}: a response template is a JSON object")
    around = given if "response_template" in given else {"response_template": given}
    unknown = sorted(set(around) - _KEYS)
    if unknown:
        raise BadResponseTemplate(f"{name}: unknown keys: {', '.join(map(repr, unknown))}")
    raw = around["response_template"]
    try:
        template = load_response_template(raw)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadResponseTemplate(f"{name}: {error}") from error
    fields = {key: field for key, field in template.fields.items() if _is_known(key)}
    if CONTENT not in fields:
        raise BadResponseTemplate(f"{name}: no field is called {CONTENT!r}")
    arguments = around.get("arguments", "object")
    if arguments not in ("object", "text"):
        raise BadResponseTemplate(f"{name}: 'arguments' is {arguments!r}, neither object nor text")
    return ResponseFormat(
        name=name,
        fields=fields,
        regions=_regions(template),
        markers=_strings(name, around, "markers"),
        tokens=_strings(name, around, "tokens"),
        forced=_forced(name, around.get("forced")),
        arguments=arguments,
        call_ids=_call_ids(name, around.get("call_ids", "")),
        words="\0".join(_words(raw["fields"])).replace("\\", ""),
    )


def _is_known(field: str) -> bool:
    return field in (CONTENT, CALLS) or field in REASONING


def _strings(name: str, around: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = around.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
        raise BadResponseTemplate(f"{name}: {key!r} must be a list of texts")
    return tuple(found)


def _forced(name: str, given: Any) -> Forced | None:
    if given is None:
        return None
    keys = {"open", "after_name", "after_reasoning"}
    if not isinstance(given, dict) or set(given) != keys:
        raise BadResponseTemplate(f"{name}: 'forced' must have {', '.join(sorted(keys))}")
    if not all(isinstance(text, str) for text in given.values()) or not given["open"]:
        raise BadResponseTemplate(f"{name}: 'forced' must be texts, and 'open' not empty")
    return Forced(**given)


def _call_ids(name: str, given: Any) -> str:
    try:
        if isinstance(given, str) and given.format(name="a", number=0) is not None:
            return given
    except (IndexError, KeyError, ValueError):
        pass
    raise BadResponseTemplate(f"{name}: 'call_ids' is a text with {{name}} and {{number}} alone")


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _words(each)
    elif isinstance(value, list):
        for each in value:
            yield from _words(each)


def _regions(template: ResponseTemplate) -> ResponseTemplate:
    """Fields that are texts as they stand: nothing is read, so nothing can be unreadable."""
    return replace(
        template,
        defaults={},
        start_anchor_re=BoundedPattern(template.start_anchor_re),
        fields={
            name: replace(
                field,
                open_re=None if field.open_re is None else BoundedPattern(field.open_re),
                close_re=None if field.close_re is None else BoundedPattern(field.close_re),
                content="text",
                content_args={"strip": False},
                repeats=False,
                join=None,
                optional=True,
                transform=None,
                transform_each=False,
            )
            for name, field in template.fields.items()
        },
    )


class BoundedPattern:
    """A pattern of the `regex` library whose searches end: TimeoutError after `_LONGEST_S`."""

    def __init__(self, pattern: Any) -> None:
        self._pattern = pattern

    def search(self, *where: Any, **how: Any) -> Any:
        return self._pattern.search(*where, **how, timeout=_LONGEST_S)

    def finditer(self, text: str) -> Iterator[Any]:
        found: Iterator[Any] = self._pattern.finditer(text, timeout=_LONGEST_S)
        return found

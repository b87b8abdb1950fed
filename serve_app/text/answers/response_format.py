"""How a family of models writes its answers: a response template of transformers, and what else
serving needs to know of the format. Parses no answer.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import regex
from transformers.utils.chat_parsing.response_templates import (
    ResponseTemplate,
    ResponseTemplateField,
    load_response_template,
)

from serve_app.text.answers.pattern_width import check_progress
from serve_app.text.errors import BadResponseTemplate

CONTENT = "content"
CALLS = "tool_calls"
REASONING = frozenset({"reasoning_content", "reasoning", "thinking"})
_KEYS = {
    "about",
    "markers",
    "written",
    "tokens",
    "forced",
    "reasoning",
    "arguments",
    "call_ids",
    "response_template",
}
_LONGEST_S = 0.05
"""Processor time of one search. A pattern that takes longer would hold up everybody's answers."""


@dataclass(frozen=True, slots=True)
class Tags:
    """How arguments are written that are a tag each.

    before_key, after_key, after_value: of one.   between: after each.   pattern: reads one, and
    has the groups `key` and `value`.
    """

    before_key: str
    after_key: str
    after_value: str
    between: str
    pattern: str

    def reads(self, key: str, value: str) -> bool:
        """Whether an argument that is written so is read as the same."""
        text = f"{self.before_key}{key}{self.after_key}{value}{self.after_value}"
        found = regex.search(self.pattern, text, regex.DOTALL, timeout=_LONGEST_S)
        return found is not None and (found["key"], found["value"]) == (key, value)


@dataclass(frozen=True, slots=True)
class HeldCalls:
    """What is around arguments, so that they can be held to a schema.

    begins: with which text a call begins, the first part of `Forced.open`; empty if none is sure.
    after: up to the end of a call.   again: up to the name of another; empty if there is none.
    ends: after the last one.   tags: None if arguments are JSON.
    """

    begins: str
    after: str
    again: str
    ends: str
    tags: Tags | None = None


@dataclass(frozen=True, slots=True)
class Forced:
    """How an answer is made to begin with a call: what it is given to continue.

    open: up to the function's name.   after_name: up to its arguments.   after_reasoning: in front
    of `open`, where the prompt ends within the reasoning.   held: None if nobody can say what
    arguments may be.
    """

    open: str
    after_name: str
    after_reasoning: str
    held: HeldCalls | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """fields: of the template, by name, as it says how to read each.

    regions: the same template, for who only wants to know where a field begins and ends.
    markers, tokens: are in the chat template, and in the vocabulary, of who writes so.
    written: patterns that match somewhere in the chat template of who writes so.
    arguments: of calls in a history, as the chat template wants them.
    call_ids: the ids of calls in a history, with their `{name}` and `{number}`, if they must be so.
    reasoning: what opens and closes it; what closes it may open the content too.
    words: all that the patterns and literals of the fields are made of.
    """

    name: str
    fields: Mapping[str, ResponseTemplateField]
    regions: ResponseTemplate
    markers: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    written: tuple[re.Pattern[str], ...] = ()
    forced: Forced | None = None
    arguments: Literal["object", "text"] = "object"
    call_ids: str = ""
    reasoning: tuple[str, str] | None = None
    words: str = ""

    @property
    def has_calls(self) -> bool:
        return CALLS in self.fields

    @property
    def num_signs(self) -> int:
        """By which it is known who writes so."""
        return len(self.markers) + len(self.tokens) + len(self.written)

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
    check_progress(name, template)
    arguments = around.get("arguments", "object")
    if arguments not in ("object", "text"):
        raise BadResponseTemplate(f"{name}: 'arguments' is {arguments!r}, neither object nor text")
    return ResponseFormat(
        name=name,
        fields=fields,
        regions=_regions(template),
        markers=_strings(name, around, "markers"),
        tokens=_strings(name, around, "tokens"),
        written=_patterns(name, around, "written"),
        forced=_forced(name, around.get("forced"), fields.get(CALLS)),
        arguments=arguments,
        call_ids=_call_ids(name, around.get("call_ids", "")),
        reasoning=_reasoning(name, around, raw["fields"]),
        words="\0".join(_words(raw["fields"])).replace("\\", ""),
    )


def _is_known(field: str) -> bool:
    return field in (CONTENT, CALLS) or field in REASONING


def _strings(name: str, around: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = around.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, str) and each for each in found):
        raise BadResponseTemplate(f"{name}: {key!r} must be a list of texts")
    return tuple(found)


def _patterns(name: str, around: Mapping[str, Any], key: str) -> tuple[re.Pattern[str], ...]:
    try:
        return tuple(re.compile(each) for each in _strings(name, around, key))
    except re.error as error:
        raise BadResponseTemplate(f"{name}: {key!r} must be patterns: {error}") from error


def _forced(name: str, given: Any, calls: ResponseTemplateField | None) -> Forced | None:
    if given is None:
        return None
    kinds = [kind for kind in ("json", "tags") if isinstance(given, dict) and kind in given]
    own = {key: text for key, text in given.items() if key not in kinds} if kinds else given
    _require_texts(name, "forced", own, {"open", "after_name", "after_reasoning"})
    if not own["open"]:
        raise BadResponseTemplate(f"{name}: 'open' in 'forced' must not be empty")
    if not kinds:
        return Forced(**own)
    kind, *others = kinds
    if others:
        raise BadResponseTemplate(f"{name}: 'forced' has either 'json' or 'tags', not both")
    around = given[kind]
    parts = {"before_key", "after_key", "after_value", "between"} if kind == "tags" else set[str]()
    _require_texts(name, kind, around, {"begins", "after", "again", "ends", *parts})
    if not own["open"].startswith(around["begins"]):
        raise BadResponseTemplate(f"{name}: 'begins' must be the first part of 'open'")
    held = {key: text for key, text in around.items() if key not in parts}
    tags = _tags(name, around, calls) if parts else None
    return Forced(**own, held=HeldCalls(**held, tags=tags))


def _tags(name: str, around: Mapping[str, str], calls: ResponseTemplateField | None) -> Tags:
    if calls is None or calls.content != "xml-inline" or "value_parser" in calls.content_args:
        raise BadResponseTemplate(f"{name}: 'tags' go with calls whose content is 'xml-inline'")
    parts = {key: around[key] for key in ("before_key", "after_key", "after_value", "between")}
    tags = Tags(**parts, pattern=calls.content_args["tag_pattern"])
    if not tags.reads("key", "value"):
        raise BadResponseTemplate(f"{name}: 'tag_pattern' does not read what 'tags' write")
    return tags


def _require_texts(name: str, where: str, given: Any, keys: set[str]) -> None:
    if not isinstance(given, dict) or set(given) != keys:
        raise BadResponseTemplate(f"{name}: '{where}' must have {', '.join(sorted(keys))}")
    if not all(isinstance(text, str) for text in given.values()):
        raise BadResponseTemplate(f"{name}: '{where}' must be texts")


def _reasoning(
    name: str, around: Mapping[str, Any], fields: Mapping[str, Any]
) -> tuple[str, str] | None:
    """As it is said; if it is not, as the template says it, if those are texts."""
    given = around.get("reasoning")
    if given is not None:
        _require_texts(name, "reasoning", given, {"opens", "closes"})
        return given["opens"], given["closes"]
    each = [
        (field.get("open"), field.get("close")) for key, field in fields.items() if key in REASONING
    ]
    found = [(a, b) for a, b in each if isinstance(a, str) and isinstance(b, str)]
    return found[0] if found else None


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

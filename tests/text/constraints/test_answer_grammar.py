"""Grammars of whole answers, in each format: what they let through, and what not."""

import json
import re
from typing import Any, cast

import pytest

from serve_app.errors import BadGrammar, BadParameters
from serve_app.grammar.following import Following
from serve_app.grammar.vocabulary import Vocabulary, checked_source
from serve_app.protocol.messages import Constraint, Conversation
from serve_app.text.answers.answer_parser import AnswerParser
from serve_app.text.answers.finding import known_formats
from serve_app.text.constraints.answer_grammar import Written, answer_grammar

FORMS = known_formats()
HELD_FORMS = sorted(n for n, form in FORMS.items() if form.forced and form.forced.held)
TRIGGERED = [name for name in HELD_FORMS if name not in ("gpt_oss", "llama")]
THINKING = sorted(name for name, form in FORMS.items() if form.reasoning is not None)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
HELD: Constraint = {"kind": "json", "value": SCHEMA, "param": "response_format"}
MARK = re.compile(
    r"<\|[\w]+\|>|<｜[^>]*｜>|\[/?[A-Z_]+\]|</?(?:minimax:)?tool_call>|</?think>|</?arg_\w+>"
)


def conversation(**given: Any) -> Conversation:
    functions = [
        {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
        for name in ("add", "sub")
    ]
    made: dict[str, Any] = {
        "messages": [],
        "tools": functions,
        "strict": ["add"],
        "forced": None,
        "single": False,
        "variables": {},
        "generation_prompt": True,
        "continues": False,
    }
    return cast(Conversation, made | given)


class Form:
    """One format, whose marks are tokens or not."""

    def __init__(self, name: str, *, has_marks: bool) -> None:
        self.form = FORMS[name]
        marks = sorted(set(MARK.findall(_all_text(name)))) if has_marks else []
        self.marks = {mark: 256 + at for at, mark in enumerate(marks)}
        tokens = [*(bytes([byte]) for byte in range(256)), *(mark.encode() for mark in marks)]
        self.vocabulary = Vocabulary(tokens, self.marks.values())

    def source(
        self, constraint: Constraint | None, chat: Conversation | None, begun: str = ""
    ) -> str | None:
        return answer_grammar(
            Written(self.form, self.marks), constraint, chat, begun, checked_source
        )

    def call(self, name: str, arguments: str, *, begun: bool = False) -> str:
        forced = self.form.forced
        assert forced is not None
        assert forced.held is not None
        start = "" if begun else forced.open + name + forced.after_name
        return f"{start}{self.written(arguments)}{forced.held.after}"

    def written(self, arguments: str) -> str:
        """Arguments in JSON as the format has them."""
        assert self.form.forced is not None
        assert self.form.forced.held is not None
        tags = self.form.forced.held.tags
        if tags is None:
            return arguments
        return "".join(
            f"{tags.before_key}{key}{tags.after_key}"
            f"{value if isinstance(value, str) else json.dumps(value)}"
            f"{tags.after_value}{tags.between}"
            for key, value in json.loads(arguments).items()
        )

    @property
    def ends(self) -> str:
        assert self.form.forced is not None
        assert self.form.forced.held is not None
        return self.form.forced.held.ends

    def verdict(self, source: str | None, text: str) -> str:
        """Whether a grammar takes a text as a whole answer, as the beginning of one, or not."""
        assert source is not None
        row = Following(self.vocabulary.compile(source), frozenset(), 0)
        for number, token in enumerate(self._tokens(text)):
            if row.is_over:
                return "too long"
            row.take(number, token)
            if row.lost is not None:
                return "refused"
        return "whole" if row.is_over or row.matcher.is_accepting() else "part"

    def _tokens(self, text: str) -> list[int]:
        if not self.marks:
            return list(text.encode())
        cut = re.split(f"({'|'.join(map(re.escape, self.marks))})", text)
        return [
            token
            for part in cut
            for token in ([self.marks[part]] if part in self.marks else part.encode())
        ]


def _all_text(name: str) -> str:
    form = FORMS[name]
    forced, reasoning = form.forced, form.reasoning or ("", "")
    held = None if forced is None else forced.held
    texts = [] if forced is None else [forced.open, forced.after_name]
    if held is not None and held.tags is not None:
        texts += [held.tags.before_key, held.tags.after_key, held.tags.after_value]
    texts += [] if held is None else [held.after, held.again, held.ends]
    return " ".join([*texts, *reasoning])


@pytest.fixture(params=[False, True], ids=["text", "tokens"])
def has_marks(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("name", THINKING)
def test_reasoning_is_free_and_the_content_after_it_obeys(name: str, has_marks: bool) -> None:
    form = Form(name, has_marks=has_marks)
    source = form.source(HELD, conversation(tools=[]))
    opens, closes = form.form.reasoning or ("", "")
    assert form.verdict(source, '{"n": 5}') == "whole"
    assert form.verdict(source, f'{opens}so {{"n": x}}{closes}{{"n": 5}}') == "whole"
    assert form.verdict(source, f"{opens}so{closes}no") == "refused"
    assert form.verdict(source, f'{opens}so {{"n": 5}}') == "part"
    assert form.verdict(source, '{"n": 5}5') == "too long"
    begun = form.source(HELD, conversation(tools=[]), f"{opens}s")
    assert form.verdict(begun, f'o{closes}{{"n": 5}}') == "whole"


@pytest.mark.parametrize("name", TRIGGERED)
def test_a_call_that_the_model_decides_on_obeys_its_schema(name: str, has_marks: bool) -> None:
    form = Form(name, has_marks=has_marks)
    source = form.source(None, conversation())
    good, free = form.call("add", '{"n": 5}'), form.call("sub", '{"x": [1]}')
    for text, kind in (
        ("I will not call.", "whole"),
        (good + form.ends, "whole"),
        (f"I look. {good}{form.ends}", "whole"),
        (form.call("add", '{"n": "x"}'), "refused"),
        (form.call("add", "{}"), "refused"),
        (form.call("other", '{"n": 5}'), "refused"),
        (free + form.ends, "whole"),
    ):
        assert form.verdict(source, text) == kind, text
    assert _parsed(form, good + form.ends) == [("add", '{"n": 5}')]


@pytest.mark.parametrize("name", TRIGGERED)
def test_several_calls_may_follow_each_other_unless_one_is_allowed(
    name: str, has_marks: bool
) -> None:
    form = Form(name, has_marks=has_marks)
    forced = form.form.forced
    assert forced is not None
    assert forced.held is not None
    two = form.call("add", '{"n": 5}') + forced.held.again
    other = form.written('{"n": 6}')
    two += f"sub{forced.after_name}{other}{forced.held.after}{form.ends}"
    assert form.verdict(form.source(None, conversation()), two) == "whole"
    assert form.verdict(form.source(None, conversation(single=True)), two) != "whole"
    assert [call for call, _ in _parsed(form, two)] == ["add", "sub"]


@pytest.mark.parametrize("name", HELD_FORMS)
def test_a_call_that_is_required_obeys_its_schema_strict_or_not(name: str, has_marks: bool) -> None:
    form = Form(name, has_marks=has_marks)
    forced = form.form.forced
    assert forced is not None
    chat = conversation(strict=[], forced="sub", single=True)
    source = form.source(None, chat, forced.open + "sub" + forced.after_name)
    assert form.verdict(source, form.call("sub", '{"n": 5}', begun=True) + form.ends) == "whole"
    assert form.verdict(source, form.written('{"m": 5}')) == "refused"
    either = form.source(None, conversation(strict=[], forced=""), forced.open)
    call = form.call("add", '{"n": 5}').removeprefix(forced.open)
    assert form.verdict(either, call + form.ends) == "whole"
    assert form.verdict(either, "other") == "refused"


@pytest.mark.parametrize("name", TRIGGERED)
def test_content_that_obeys_may_be_a_call_instead(name: str, has_marks: bool) -> None:
    form = Form(name, has_marks=has_marks)
    source = form.source(HELD, conversation())
    assert form.verdict(source, '{"n": 5}') == "whole"
    assert form.verdict(source, form.call("add", '{"n": 5}') + form.ends) == "whole"
    assert form.verdict(source, "I will not.") == "refused"


@pytest.mark.parametrize("name", ["olmo3", "gemma", "gemma_function"])
def test_arguments_that_are_neither_json_nor_tags_are_held_to_nothing(name: str) -> None:
    form = Form(name, has_marks=False)
    assert form.source(None, conversation()) is None
    assert form.source(None, conversation(forced="add")) is None
    either = form.source(HELD, conversation())
    forced = form.form.forced
    assert forced is not None
    assert form.verdict(either, '{"n": 5}') == "whole"
    assert form.verdict(either, f"{forced.open}add{forced.after_name}what it likes") == "whole"


def test_tools_without_strict_ones_are_held_to_nothing() -> None:
    assert Form("hermes", has_marks=False).source(None, conversation(strict=[])) is None


def test_answers_that_are_not_told_apart_obey_as_a_whole() -> None:
    source = answer_grammar(Written(None, {}), HELD, None, None, checked_source)
    assert source == checked_source("json", SCHEMA)


def test_parameters_that_are_no_schema_are_refused_with_the_functions_name() -> None:
    function = {"name": "add", "parameters": {"properties": {"x": {"not": {}}}}}
    chat = conversation(tools=[{"type": "function", "function": function}])
    with pytest.raises(BadParameters, match=r"function 'add': .*#/properties/x/not"):
        Form("hermes", has_marks=False).source(None, chat)


def test_a_schema_that_is_none_is_refused() -> None:
    bad: Constraint = {"kind": "json", "value": {"type": "x"}, "param": "p"}
    with pytest.raises(BadGrammar, match="Invalid type"):
        Form("hermes", has_marks=False).source(bad, conversation())


def _parsed(form: Form, text: str) -> list[tuple[str, str]]:
    parser = AnswerParser(form.form, "", {"add": SCHEMA, "sub": SCHEMA})
    deltas = [*parser.feed(text).calls, *parser.end().calls]
    found: dict[int, list[str]] = {}
    for delta in deltas:
        found.setdefault(delta["index"], [delta["name"] or ""])[0:0] = []
        found[delta["index"]].append(delta["arguments"])
    return [(parts[0], "".join(parts[1:])) for parts in found.values()]

"""Answers are told apart as their formats say, however they are cut."""

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_parsing import parse_response

from serve_app.protocol.messages import CallDelta
from serve_app.text.answers.answer_parser import AnswerParser, Parsed
from serve_app.text.answers.finding import known_formats
from serve_app.text.answers.response_format import ResponseFormat, read_format
from tests.text.answers.samples import PARIS, SAMPLES, TOOLS, Sample

FORMS = known_formats()
_IDS = [f"{each.form} {number}" for number, each in enumerate(SAMPLES)]


def parser_of(sample: Sample, **change: Any) -> AnswerParser:
    form = FORMS[sample.form]
    return AnswerParser(form, form.begun(sample.prompt), **{"tools": TOOLS, **change})


def parsed(parser: AnswerParser, pieces: Iterable[str]) -> Parsed:
    """Everything that was told, joined."""
    told = [parser.feed(piece) for piece in pieces]
    told.append(parser.end())
    return Parsed(
        "".join(each.content for each in told),
        "".join(each.reasoning for each in told),
        joined([delta for each in told for delta in each.calls]),
    )


def joined(deltas: Sequence[CallDelta]) -> list[CallDelta]:
    calls: list[CallDelta] = []
    for delta in deltas:
        if delta["name"] is not None:
            assert delta["index"] == len(calls), "calls begin in order"
            calls.append({**delta})
        else:
            assert delta["index"] == len(calls) - 1
            calls[-1]["arguments"] += delta["arguments"]
    return calls


@pytest.mark.parametrize("sample", SAMPLES, ids=_IDS)
def test_what_an_answer_says_is_told_apart(sample: Sample) -> None:
    found = parsed(parser_of(sample), [sample.text])
    assert (found.content, found.reasoning) == (sample.content, sample.reasoning)
    calls = [(call["name"], json.loads(call["arguments"])) for call in found.calls]
    assert calls == [(name, dict(arguments)) for name, arguments in sample.calls]


@pytest.mark.parametrize("sample", SAMPLES, ids=_IDS)
def test_it_is_the_same_cut_anywhere(sample: Sample) -> None:
    text = sample.text
    whole = parsed(parser_of(sample), [text])
    assert parsed(parser_of(sample), text) == whole, "a character at a time"
    for cut in range(1, len(text)):
        assert parsed(parser_of(sample), [text[:cut], text[cut:]]) == whole, text[:cut]


_MARKS = sorted(
    {
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "\n", " ", "{", "}", '"', "[", "]"),
        *('{"name": "run", "arguments": {', '"a": 1', "}}", "[TOOL_CALLS]", "run", "[ARGS]", ","),
        *("<function=run>", "<parameter=a>", "</parameter>", "</function>", "<", "</", "x", "\\"),
        *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<|channel|>", "<|message|>"),
        *("analysis", "final", "commentary", " to=functions.run", "<|start|>assistant", "<|end|>"),
        *(
            "<｜tool▁call▁begin｜>",
            "<｜tool▁sep｜>",
            "<｜tool▁call▁end｜>",
            "<|tool_call|>",
            "<|call|>",
        ),
        *(
            "<minimax:tool_call>",
            '<invoke name="run">',
            "</invoke>",
            "<|tool_call>call:",
            "<tool_call|>",
        ),
    }
)


@pytest.mark.parametrize("name", sorted(FORMS))
@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.sampled_from(_MARKS), max_size=14), data=st.data())
def test_any_text_is_the_same_cut_anywhere(name: str, parts: list[str], data: Any) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    single = data.draw(st.booleans())

    def made() -> AnswerParser:
        return AnswerParser(FORMS[name], "", TOOLS, single=single)

    whole = parsed(made(), [text])
    assert parsed(made(), pieces) == whole
    assert parsed(made(), text) == whole


_WITHOUT_MORE = [each for each in SAMPLES if not each.prompt and "no call" not in each.text]


@pytest.mark.parametrize(
    "sample",
    [pytest.param(one, id=f"{one.form} {number}") for number, one in enumerate(_WITHOUT_MORE)],
)
def test_transformers_reads_the_same_from_the_same_template(sample: Sample) -> None:
    data = Path(str(files("serve_app.text.answers"))) / "data"
    [file] = data.glob(f"*/{sample.form}.json")
    template = json.loads(file.read_text(encoding="utf-8"))["response_template"]
    message = parse_response(sample.text, template, prefix="")
    found = parsed(parser_of(sample), [sample.text])
    assert found.content == message.get("content", found.content)
    assert found.reasoning == message.get("reasoning_content", "")
    calls = message.get("tool_calls", [])
    if any(isinstance(call["function"], str) for call in calls):
        return  # calls that are no JSON by themselves, which are ours to read
    assert [call["name"] for call in found.calls] == [call["function"]["name"] for call in calls]


def test_arguments_come_as_they_are_written() -> None:
    parser = parser_of(SAMPLES[0])
    pieces = '<tool_call>{"name": "run", ', '"arguments": {"a"'
    told = [parser.feed(piece).calls for piece in pieces]
    assert told == [[], [{"index": 0, "name": "run", "arguments": ""}, _more('{"a"')]]
    assert parser.feed(": [1").calls == [_more(": [1")]
    assert parser.feed("]}}</tool_call>").calls == [_more("]}")]
    assert parser.num_calls == 1


def _more(arguments: str) -> CallDelta:
    return {"index": 0, "name": None, "arguments": arguments}


def test_without_tools_nothing_is_a_call() -> None:
    text = '<think>a</think><tool_call>{"name": "run", "arguments": {}}</tool_call>'
    found = parsed(AnswerParser(FORMS["hermes"]), [text])
    assert (found.content, found.reasoning) == (text.removeprefix("<think>a</think>"), "a")
    assert found.calls == []


@pytest.mark.parametrize("sample", [each for each in SAMPLES if len(each.calls) == 2])
def test_a_single_call_ends_the_answer(sample: Sample) -> None:
    parser = parser_of(sample, single=True)
    found = parsed(parser, sample.text)
    assert parser.is_over
    assert [call["name"] for call in found.calls] == [sample.calls[0][0]]


def test_an_answer_that_ends_within_a_call_gives_what_there_is() -> None:
    found = parsed(parser_of(SAMPLES[0]), ['<tool_call>{"name": "run", "arguments": {"a": "b'])
    assert found.calls == [{"index": 0, "name": "run", "arguments": '{"a": "b'}]


@pytest.mark.parametrize(("name", "form"), sorted(FORMS.items()))
def test_a_forced_call_is_continued(name: str, form: ResponseFormat) -> None:
    if form.forced is None:
        assert not form.has_calls
        return
    begun = f"{form.forced.open}get_weather{form.forced.after_name}"
    usual = ("get_weather", PARIS)
    sample = next(each for each in SAMPLES if each.form == name and usual in each.calls)
    rest = sample.text[sample.text.index("get_weather") + len("get_weather") :]
    assert rest.startswith(form.forced.after_name)
    text = rest.removeprefix(form.forced.after_name)
    found = parsed(AnswerParser(form, begun, TOOLS, single=True), text)
    assert [(call["name"], json.loads(call["arguments"])) for call in found.calls] == [usual]
    assert found.content == ""


def test_reasoning_that_the_prompt_begins_is_known() -> None:
    form = FORMS["hermes"]
    assert AnswerParser(form, "<think>\n").is_reasoning
    assert not AnswerParser(form, "<think>\n\n</think>\n\n").is_reasoning


def test_a_pattern_that_takes_too_long_is_ended() -> None:
    slow = {"open_pattern": "(?:x|x)+y", "close": "z", "repeats": True, "content": "json"}
    template = {"start_anchor": "A", "fields": {"tool_calls": slow, "content": {}}}
    parser = AnswerParser(read_format("slow", template), "", {})
    with pytest.raises(TimeoutError):
        parser.feed("x" * 40 + "z")


def test_arguments_that_are_tags_are_told_one_by_one() -> None:
    parser = parser_of(next(each for each in SAMPLES if each.form == "qwen3_coder"))
    parser.feed("<tool_call>\n<function=get_weather>\n")
    told = parser.feed("<parameter=days>\n3\n</parameter>\n<parameter=city>\nPar").calls
    assert told == [{"index": 0, "name": "get_weather", "arguments": ""}, _more('{"days": 3')]
    rest = "is\n</parameter>\n<parameter=days>\n4\n</parameter>\n</function>\n</tool_call>"
    found = joined([*told, *parser.feed(rest).calls, *parser.end().calls])
    assert [call["arguments"] for call in found] == ['{"days": 3, "city": "Paris"}']


@pytest.mark.parametrize(
    ("form", "begin", "tag"),
    [
        ("qwen3_coder", "<tool_call>\n<function=run>\n", "<parameter=a>x"),
        ("minimax", '<invoke name="run">\n', '<parameter name="a">x'),
    ],
)
def test_tags_that_never_end_are_content(form: str, begin: str, tag: str) -> None:
    parser = AnswerParser(FORMS[form], "", TOOLS)
    for piece in (begin, *[tag] * 4000):
        assert parser.feed(piece).calls == []
    found = parser.end()
    assert found.calls == []
    assert found.content == (begin + tag * 4000).strip()

"""Which format a model has: its own, the operator's, or the one whose markers its template has."""

from typing import Any

import pytest

from serve_app.text.answers.finding import OWN, fitting_format, format_of, known_formats
from serve_app.text.answers.response_format import read_format
from serve_app.text.errors import BadResponseTemplate

FORCED = {"open": "x", "after_name": "", "after_reasoning": ""}
TEMPLATE: dict[str, Any] = {"start_anchor": "A:", "fields": {"content": {}}}

TAGS = {
    **dict.fromkeys(("begins", "after", "again", "ends", "between"), ""),
    "before_key": "<a ",
    "after_key": ">",
    "after_value": "</a>",
}
TAGGED = {**FORCED, "tags": TAGS}


def tagged(pattern: str) -> dict[str, Any]:
    calls: dict[str, Any] = {"open": "<c>", "close": "</c>", "content": "xml-inline"}
    calls |= {"content_args": {"tag_pattern": pattern}}
    return {**TEMPLATE, "fields": {**TEMPLATE["fields"], "tool_calls": calls}}


def closing(pattern: str, field: str = "content", **more: str) -> dict[str, Any]:
    fields = {**TEMPLATE["fields"], field: {"close_pattern": pattern, **more}}
    return {**TEMPLATE, "fields": fields}


WRITTEN = {
    "hermes": r"""{{ '<tool_call>\n{"name": "' }}{{ tool_call.arguments | tojson }}</tool_call>""",
    "qwen3_coder": "<tool_call><function={{ f }}><parameter={{ p }}></tool_call> arguments",
    "glm": "<tool_call>{{ f }}<arg_key>{{ k }}</arg_key><arg_value></tool_call> arguments",
    "mistral": "[INST] [TOOL_CALLS] [{{ calls }}]",
    "mistral_v11": "[TOOL_CALLS]{{ f }}[ARGS]{{ a }}",
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>```json </think>",
    "deepseek_v31": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ f }}<｜tool▁sep｜></think>",
    "minimax": "<minimax:tool_call><invoke name=",
    "granite": "<|start_of_role|>assistant<|end_of_role|><|tool_call|>",
    "gemma": "<|turn>model <|tool_call>call:{{ f }}<tool_call|>",
    "gemma_function": "<start_function_call>call:f{k:<escape>v<escape>}",
    "gpt_oss": "<|start|>assistant<|channel|>final<|message|>",
    "hy_v3": "'<tool_call{}>' '<tool_sep{}>' '<arg_key{}>' '<arg_value{}>'.format(':opensource')",
    "kimi_k2": "<|im_assistant|>assistant<|im_middle|>{{ content }}",
    "llama": """'<|start_header_id|>ipython<|end_header_id|>' '"parameters": ' {{ arguments }}""",
    "olmo3": "in <function_calls></function_calls> tags. <functions> {{ tool }}",
    "think": "{{ content.split('</think>')[-1] }}",
}


def test_each_of_ours_is_found_by_what_its_chat_template_writes() -> None:
    vocabulary = {token for form in known_formats().values() for token in form.tokens}
    found = {name: fitting_format(text, vocabulary) for name, text in WRITTEN.items()}
    assert {name: form and form.name for name, form in found.items()} == {
        name: name for name in known_formats()
    }


@pytest.mark.parametrize(
    ("written", "is_hermes"),
    [
        (r"""'<tool_call>\n{\"name\": ' arguments </tool_call>""", True),
        ("""<tool_call>\n{"name": <name>, "arguments": <args>}\n</tool_call>""", True),
        ("""<tool_call>\n{{'arguments': <args>, 'name': <name>}}\n</tool_call>""", True),
        # Hermes 2 Pro and 3: an expression for each line
        (
            """{{- "<tool_call>\n" }}\n    {{- '{"name": <f>, "arguments": <a>}</tool_call>' }}""",
            True,
        ),
        (r"""{{ '<tool_call>\n' + '{"arguments": <a>, "name": <f>}' + '</tool_call>' }}""", True),
        # MiniMax M3 and Apriel 1.5
        ("'<tool_call>' ns '<invoke name=' {{ tool_call.arguments }} '</tool_call>'", False),
        ("""in <tool_call></tool_call> tags: <tool_calls>[{"name": f, "arguments": a}]""", False),
    ],
)
def test_a_format_is_known_by_the_way_in_which_its_calls_begin(
    written: str, is_hermes: bool
) -> None:
    form = fitting_format(written, ())
    assert (form is not None and form.name == "hermes") is is_hermes


def test_a_plain_chat_template_has_no_format() -> None:
    assert format_of(None, None, "[INST] {{ m }} [/INST]", ()) is None
    assert format_of(None, None, None, ()) is None


def test_tokens_of_a_format_must_be_in_the_vocabulary() -> None:
    form = read_format("x", {"markers": ["A"], "tokens": ["<a>"], "response_template": TEMPLATE})
    assert (form.markers, form.tokens) == (("A",), ("<a>",))


def test_the_operators_goes_before_the_models_own_and_that_before_ours() -> None:
    override = read_format("file", TEMPLATE)
    hermes = WRITTEN["hermes"]
    assert format_of(TEMPLATE, override, hermes, ()) is override
    own = format_of(TEMPLATE, None, hermes, ())
    ours = format_of(None, None, {"default": "x", "tool_use": hermes}, ())
    assert [form and form.name for form in (own, ours)] == [OWN, "hermes"]


def test_tags_are_written_as_their_pattern_reads_them() -> None:
    pattern = "<a (?P<key>[^>]+)>(?P<value>.*?)</a>"
    form = read_format("x", {"response_template": tagged(pattern), "forced": TAGGED})
    assert form.forced is not None
    assert form.forced.held is not None
    tags = form.forced.held.tags
    assert tags is not None
    assert tags.reads("k", "v\nw")
    assert not tags.reads("k>", "v")
    assert not tags.reads("k", "</a>")


def test_a_region_may_end_where_nothing_is_if_its_beginning_is_something() -> None:
    read_format("x", closing("(?=x)", "tool_calls", open_pattern="<a>"))
    read_format("x", closing("<b>", "tool_calls", open_pattern="(?=x)"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "a JSON object"),
        ({}, "fields"),
        ({"fields": {}}, "non-empty"),
        ({"start_anchor": "A", "fields": {"content": {"open_pattern": "("}}}, "invalid"),
        ({"start_anchor": "A", "fields": {"content": 5}}, "must be a dict"),
        ({"start_anchor": "A", "fields": {"x": {}}}, "no field is called 'content'"),
        ({"fields": {"content": {}}}, "start_anchor"),
        ({"response_template": TEMPLATE, "marker": ["x"]}, "unknown keys: 'marker'"),
        ({"response_template": TEMPLATE, "markers": [""]}, "'markers' must be a list of texts"),
        ({"response_template": TEMPLATE, "forced": {"open": "x"}}, "'forced' must have"),
        (
            {
                "response_template": TEMPLATE,
                "forced": {"open": "", "after_name": "", "after_reasoning": ""},
            },
            "'open' in 'forced' must not be empty",
        ),
        (
            {"response_template": TEMPLATE, "forced": {**FORCED, "json": {"begins": "y"}}},
            "'json' must have",
        ),
        (
            {
                "response_template": TEMPLATE,
                "forced": {**FORCED, "json": {"begins": "y", "after": "", "again": "", "ends": ""}},
            },
            "the first part of 'open'",
        ),
        (
            {"response_template": TEMPLATE, "forced": {**FORCED, "json": {}, "tags": {}}},
            "either 'json' or 'tags'",
        ),
        (
            {"response_template": TEMPLATE, "forced": {**FORCED, "tags": TAGS}},
            "content is 'xml-inline'",
        ),
        (
            {"response_template": tagged("<b>(?P<key>.)(?P<value>.)"), "forced": TAGGED},
            "does not read what 'tags' write",
        ),
        ({"response_template": TEMPLATE, "reasoning": {"opens": "x"}}, "'reasoning' must have"),
        ({"response_template": TEMPLATE, "arguments": "x"}, "neither object nor text"),
        ({"response_template": TEMPLATE, "call_ids": "{id}"}, "{name} and {number} alone"),
        ({"response_template": TEMPLATE, "call_ids": 5}, "{name} and {number} alone"),
        ({"response_template": 5}, "must be a dict"),
        ({"response_template": TEMPLATE, "written": ["("]}, "'written' must be patterns"),
        (closing("x*"), "'close_pattern' of the field 'content' may match nothing"),
        (closing("(?=x)"), "may match nothing"),
        (closing("a|(?<=x)"), "may match nothing"),
        (closing(r"\p{L}?"), "may match nothing"),
        (closing("(?=x)", "tool_calls", open_pattern="(?=y)"), "the field 'tool_calls' may match"),
    ],
)
def test_what_is_no_response_template_says_why(given: Any, words: str) -> None:
    with pytest.raises(BadResponseTemplate, match=words) as caught:
        read_format("file.json", given)
    assert str(caught.value).startswith("file.json: ")

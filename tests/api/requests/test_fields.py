"""Bodies that are wrong: always one 400 in OpenAI's form, naming the field."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.requests.fields import (
    ChatFields,
    CompletionFields,
    DetokenizeFields,
    TokenizeFields,
)
from serve_app.api.requests.jobs import chat_job, completion_job
from serve_app.api.requests.parse import parse
from serve_app.api.statuses import OPENAI
from serve_app.config import RequestLimits
from serve_app.protocol.errors import ProtocolError
from serve_app.tenants.keyring import ANYBODY

COMPLETION: dict[str, Any] = {"model": "m", "prompt": "x"}
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def _completion(**fields: Any) -> CompletionFields:
    return parse(json.dumps({**COMPLETION, **fields}).encode(), CompletionFields)


def parsed_chat(**fields: Any) -> ChatFields:
    return parse(json.dumps({**CHAT, **fields}).encode(), ChatFields)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"[1]",
        b'"x"',
        b"NaN",
        b'{"model": "m", "prompt": "x", "temperature": NaN}',
        b'{"model": "m", "prompt": "x", "temperature": Infinity}',
        b'{"model": "m", "prompt": "x", "temperature": 1e999}',
        b'{"model": "m", "prompt": "x", "seed": ' + b"9" * 5000 + b"}",
        b'{"model": "m", "prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "\\ud800", "prompt": "x"}',
        b'{"model": "m", "prompt": "x", "\\ud800": 1}',
    ],
)
def test_what_is_no_request_is_400(body: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse(body, CompletionFields)
    assert OPENAI.statuses[caught.value.code].number == 400
    json.dumps(OPENAI.body(caught.value), ensure_ascii=False).encode()


def _status(body: dict[str, Any], schema: type[CompletionFields | ChatFields]) -> int:
    try:
        fields = parse(json.dumps(body).encode(), schema)
        if isinstance(fields, ChatFields):
            chat_job(fields, RequestLimits(), job="j", caller=ANYBODY)
        elif isinstance(fields, CompletionFields):
            completion_job(fields, RequestLimits(), job="j", caller=ANYBODY)
    except ProtocolError as error:
        return OPENAI.statuses[error.code].number
    return 200


@pytest.mark.parametrize("name", sorted({*CompletionFields.model_fields, "no_such_field"}))
@settings(max_examples=25, deadline=None)
@given(value=JSON)
def test_any_value_of_any_field_is_taken_or_400(name: str, value: Any) -> None:
    assert _status({**COMPLETION, name: value}, CompletionFields) in (200, 400)


@pytest.mark.parametrize("name", sorted({*ChatFields.model_fields, "no_such_field"}))
@settings(max_examples=25, deadline=None)
@given(value=JSON)
def test_any_value_of_any_chat_field_is_taken_or_400(name: str, value: Any) -> None:
    assert _status({**CHAT, name: value}, ChatFields) in (200, 400)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["x", 1]}, "prompt"),
        ({"prompt": [1, True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": -0.1}, "min_p"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"seed": 1.5}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop[0]"),
        ({"stop": "x" * 257}, "stop[0]"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-30}, "repetition_penalty"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": "x"}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"prompt": ["x"] * 257}, "prompt"),
        ({"prompt": ["x"] * 200, "n": 3}, "n"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        completion_job(_completion(**fields), RequestLimits(), job="j", caller=ANYBODY)
    assert caught.value.code == "invalid_request"
    assert (caught.value.param or "").startswith(param)


@pytest.mark.parametrize("missing", ["model", "prompt"])
def test_a_missing_field_is_named(missing: str) -> None:
    body = {name: value for name, value in COMPLETION.items() if name != missing}
    with pytest.raises(ProtocolError, match=f"Missing required parameter: '{missing}'"):
        parse(json.dumps(body).encode(), CompletionFields)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"max_token": 5}, "max_token"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        _completion(**fields)
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"messages": [{"role": "user", "content": "", "tool_calls": [1]}]}, "tool_calls"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_audio_images_and_older_forms_of_tools_are_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(ProtocolError) as caught:
        parsed_chat(**fields)
    assert caught.value.code == "unsupported_parameter"
    assert (caught.value.param or "").endswith(param)


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url"])
def test_who_sends_other_media_is_told_that_text_models_are_served(kind: str) -> None:
    with pytest.raises(ProtocolError, match="without the towers that a model may have"):
        parsed_chat(messages=[{"role": "user", "content": [{"type": kind}]}])
    with pytest.raises(ProtocolError, match=r"'file' are not supported here$"):
        parsed_chat(messages=[{"role": "user", "content": [{"type": "file"}]}])


def test_what_asks_for_nothing_special_is_taken() -> None:
    _completion(suffix=None, best_of=1, use_beam_search=False, length_penalty=1.0, metadata={})
    parsed_chat(
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        modalities=["text"],
        store=False,
        service_tier="auto",
        parallel_tool_calls=True,
        verbosity="low",
        prediction={"type": "content", "content": "x"},
        prompt_cache_key="x",
        safety_identifier="x",
    )


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (None, "messages"),
        ([], "messages"),
        ("hi", "messages"),
        (["hi"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "king", "content": "x"}], "messages[0].role"),
        ([{"role": ["x"], "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [5]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "x", "name": 5}], "messages[0].name"),
    ],
)
def test_a_bad_message_is_named(messages: Any, param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parsed_chat(messages=messages)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)


def test_parts_of_text_are_joined_and_an_answers_empty_fields_dropped() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    answer = {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None}
    fields = parsed_chat(messages=[{"role": "user", "content": parts, "name": "n"}, answer])
    assert fields.messages == [
        {"role": "user", "content": "a\nb", "name": "n"},
        {"role": "assistant", "content": "c"},
    ]


def test_top_logprobs_need_logprobs() -> None:
    with pytest.raises(ProtocolError) as caught:
        parsed_chat(top_logprobs=2)
    assert caught.value.param == "top_logprobs"


def test_the_newer_name_of_max_tokens_wins() -> None:
    fields = parsed_chat(max_tokens=5, max_completion_tokens=7)
    assert chat_job(fields, RequestLimits(), job="j", caller=ANYBODY)["max_tokens"] == 7


def test_only_what_the_client_named_is_in_the_job() -> None:
    job = completion_job(_completion(temperature=0), RequestLimits(), job="j", caller=ANYBODY)
    assert job["sampling"] == {"temperature": 0}
    assert 0 <= job["seed"] < 2**63
    assert job["prompts"] == ["x"]


def test_tokenize_takes_either_a_prompt_or_messages() -> None:
    for body in ({"model": "m"}, {**COMPLETION, **CHAT}):
        with pytest.raises(ProtocolError):
            parse(json.dumps(body).encode(), TokenizeFields)
    with pytest.raises(ProtocolError):
        parse(b'{"model": "m", "tokens": "x"}', DetokenizeFields)


def test_messages_of_errors_have_a_length() -> None:
    with pytest.raises(ProtocolError) as caught:
        _completion(**{"x" * 10_000: 1})
    assert len(caught.value.message) <= 1000
    assert len(caught.value.param or "") <= 200

"""Bodies that no later code could carry are refused here, with 400 and the field's name."""

import json

import pytest

from serve_app.api.requests.body import DEEPEST, depth_of, json_object
from serve_app.protocol.errors import ProtocolError


def _nested(depth: int) -> object:
    value: object = 1
    for place in range(depth):
        value = [value] if place % 2 else {"a": value}
    return value


@pytest.mark.parametrize("depth", [0, 1, 2, 63, 64, 65, 200])
def test_depth_counts_lists_and_objects(depth: int) -> None:
    assert depth_of(_nested(depth), 100) == min(depth, 101)


@pytest.mark.parametrize("depth", [DEEPEST + 1, 500, 960, 5000, 100_000])
def test_what_is_nested_too_deeply_is_refused_by_depth(depth: int) -> None:
    body = b'{"chat_template_kwargs":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    with pytest.raises(ProtocolError, match="nested too deeply: the limit is 64") as caught:
        json_object(body)
    assert caught.value.code == "invalid_request"


def test_what_is_nested_as_deep_as_may_be_is_taken() -> None:
    body = {"chat_template_kwargs": _nested(DEEPEST), "messages": [{"role": "user"}] * 99}
    assert json_object(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"logit_bias": {"\\ud83d": 1}}', "logit_bias"),
        (b'{"user": "\\uDC00"}', "user"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d x \\ude00"}]}', "messages"),
        (b'{"\\ud800": 1}', None),
        (b'{"prompt": [[1, 2], [3]], "stop": "\\ud83d"}', "stop"),
    ],
)
def test_half_a_character_is_refused_by_its_field(body: bytes, param: str | None) -> None:
    with pytest.raises(ProtocolError, match="not valid Unicode") as caught:
        json_object(body)
    assert caught.value.param == param


def test_both_halves_of_a_character_are_a_character() -> None:
    assert json_object(b'{"user": "\\ud83d\\ude00"}') == {"user": "\N{GRINNING FACE}"}


@pytest.mark.parametrize("tokens", ["[1, 2]", "[[1, 2], [3]]"])
def test_token_ids_may_stand_beside_any_character(tokens: str) -> None:
    body = f'{{"prompt": {tokens}, "stop": "\\ud83d\\ude00"}}'
    assert json_object(body.encode())["stop"] == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    "body", [b'{"a": "\xed\xa0\xbd"}', b"\xff\xfe{}", b'{"a": NaN}', b"", b"["]
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="not valid JSON"):
        json_object(body)

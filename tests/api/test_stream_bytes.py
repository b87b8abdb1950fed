"""The bytes of streams, to the last: what clients have parsed so far they must go on to parse."""

import asyncio
import re
from typing import Any

import httpx

from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits
from serve_app.protocol.errors import loading
from serve_app.protocol.messages import Item, TokenItem
from tests.api.fakes import ACCEPTED, FakeClient, piece

CHAT = {"messages": [{"role": "user", "content": "x"}]}
HEAD = '"created":5,"model":"m\\"\\u00e9","service_tier":"default","system_fingerprint":"r1"'
TEXT = 'é"\\\n\u2028\U0001f600\x7f/<'
WRITTEN = '"\\u00e9\\"\\\\\\n\\u2028\\ud83d\\ude00\\u007f/<"'
TOKEN: TokenItem = {
    "text": "é",
    "bytes": bytes([195, 169]),
    "logprob": -0.5,
    "top": [
        {"text": "é", "bytes": bytes([195, 169]), "logprob": -0.5},
        {"text": "\u2028", "bytes": bytes([226, 128, 168]), "logprob": float("-inf")},
    ],
    "offset": 0,
}


def stream(path: str, *batches: list[Item], **fields: Any) -> str:
    """What a client reads, with the request's random id as `ID`."""

    async def run() -> httpx.Response:
        app = build_api(Api(FakeClient(*batches), RequestLimits(), clock=lambda: 5.9))
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            body = {"model": 'm"é', "stream": True, **fields}
            return await http.post(path, json=body)

    response = asyncio.run(run())
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    return re.sub("cmpl-[0-9a-f]{32}", "cmpl-ID", response.text)


def completion(choice: str, usage: str = "") -> str:
    head = f'"id":"cmpl-ID","object":"text_completion",{HEAD}'
    return f'data: {{{head}{usage},"choices":[{choice}]}}\n\n'


def chat(choice: str, usage: str = "") -> str:
    head = f'"id":"chatcmpl-ID","object":"chat.completion.chunk",{HEAD}'
    return f'data: {{{head}{usage},"choices":[{choice}]}}\n\n'


def test_a_completion() -> None:
    ended = piece("", "length", num_tokens=0)
    got = stream("/v1/completions", [ACCEPTED], [piece(TEXT)], [piece(" b"), ended], prompt="x")
    assert got == (
        completion(f'{{"index":0,"text":{WRITTEN},"logprobs":null,"finish_reason":null}}')
        + completion('{"index":0,"text":" b","logprobs":null,"finish_reason":null}')
        + completion('{"index":0,"text":"","logprobs":null,"finish_reason":"length"}')
        + "data: [DONE]\n\n"
    )


def test_a_completion_with_usage_and_log_probabilities_of_two_choices() -> None:
    one = piece("é", tokens=[TOKEN], num_cached=2)
    other = piece("", "stop", choice=1, tokens=[])
    got = stream(
        "/v1/completions",
        [ACCEPTED],
        [one, other],
        [piece("", "stop", num_tokens=0)],
        prompt="x",
        n=2,
        logprobs=2,
        stream_options={"include_usage": True},
    )
    logprobs = (
        '{"tokens":["\\u00e9"],"token_logprobs":[-0.5],'
        '"top_logprobs":[{"\\u00e9":-0.5,"\\u2028":-9999.0}],"text_offset":[0]}'
    )
    empty = '{"tokens":[],"token_logprobs":[],"top_logprobs":[],"text_offset":[]}'
    none = ',"usage":null'
    usage = (
        ',"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,'
        '"prompt_tokens_details":{"cached_tokens":2}}'
    )
    head = f'"id":"cmpl-ID","object":"text_completion",{HEAD}'
    assert got == (
        completion(
            f'{{"index":0,"text":"\\u00e9","logprobs":{logprobs},"finish_reason":null}}', none
        )
        + completion(f'{{"index":1,"text":"","logprobs":{empty},"finish_reason":"stop"}}', none)
        + completion(f'{{"index":0,"text":"","logprobs":{empty},"finish_reason":"stop"}}', none)
        + f'data: {{{head}{usage},"choices":[]}}\n\n'
        + "data: [DONE]\n\n"
    )


def test_a_chat() -> None:
    silent = piece("", num_tokens=1)
    got = stream(
        "/v1/chat/completions", [ACCEPTED], [piece(TEXT), silent], [piece("b", "stop")], **CHAT
    )
    opening = '{"role":"assistant","content":""}'
    assert got == (
        chat(f'{{"index":0,"delta":{opening},"logprobs":null,"finish_reason":null}}')
        + chat(
            f'{{"index":0,"delta":{{"content":{WRITTEN}}},"logprobs":null,"finish_reason":null}}'
        )
        + chat('{"index":0,"delta":{"content":"b"},"logprobs":null,"finish_reason":null}')
        + chat('{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}')
        + "data: [DONE]\n\n"
    )


def test_a_chat_with_usage_and_log_probabilities() -> None:
    got = stream(
        "/v1/chat/completions",
        [ACCEPTED],
        [piece("é", "length", tokens=[TOKEN])],
        logprobs=True,
        top_logprobs=2,
        stream_options={"include_usage": True},
        **CHAT,
    )
    none = ',"usage":null'
    logprobs = (
        '{"content":[{"token":"\\u00e9","logprob":-0.5,"bytes":[195,169],"top_logprobs":['
        '{"token":"\\u00e9","logprob":-0.5,"bytes":[195,169]},'
        '{"token":"\\u2028","logprob":-9999.0,"bytes":[226,128,168]}]}],"refusal":null}'
    )
    usage = (
        ',"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4,'
        '"prompt_tokens_details":{"cached_tokens":0},'
        '"completion_tokens_details":{"reasoning_tokens":0}}'
    )
    opening, delta = '{"role":"assistant","content":""}', '{"content":"\\u00e9"}'
    head = f'"id":"chatcmpl-ID","object":"chat.completion.chunk",{HEAD}'
    assert got == (
        chat(f'{{"index":0,"delta":{opening},"logprobs":null,"finish_reason":null}}', none)
        + chat(f'{{"index":0,"delta":{delta},"logprobs":{logprobs},"finish_reason":null}}', none)
        + chat('{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}', none)
        + f'data: {{{head}{usage},"choices":[]}}\n\n'
        + "data: [DONE]\n\n"
    )


def test_an_error_midway() -> None:
    got = stream(
        "/v1/completions", [ACCEPTED], [piece("a"), loading("going é").to_item()], prompt="x"
    )
    assert got == (
        completion('{"index":0,"text":"a","logprobs":null,"finish_reason":null}')
        + 'data: {"error":{"message":"going \\u00e9","type":"server_error","param":null,'
        '"code":"loading"}}\n\n'
    )

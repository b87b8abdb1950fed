"""No key, prompt or answer in a log, a metric, a usage record or somebody else's error."""

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest

from serve_app.api.routes import Api, build_api
from serve_app.config import ServeConfig
from serve_app.logs.about import FACTS
from serve_app.tenants.usage_record import UsageRecord
from serve_app.text.tokenizer import Tokenizer
from tests.api.held_keys import HeldKeys
from tests.serving.asking import chatty
from tests.serving.running import replica_of, serves

MARK = "jolly wolf"
"""In every prompt, and what the model answers."""
KEY = "sk-ep-MARKED"
CONFIG = ServeConfig(family="fam", poll_s=0.02)
TEMPLATE = "{{ messages[0]['content'] if messages[0]['role'] == 'user' else 1 // 0 }}"
COMPLETION: dict[str, Any] = {"model": "a", "prompt": f"{MARK} {MARK}", "max_tokens": 8}
USER = {"role": "user", "content": MARK}
CHAT: dict[str, Any] = {"model": "a", "messages": [USER]}
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", COMPLETION),
    ("/v1/completions", {**COMPLETION, "stream": True, "echo": True, "logprobs": 2}),
    ("/v1/completions", {**COMPLETION, "stop": [MARK], "user": MARK, "metadata": {"x": MARK}}),
    ("/v1/completions", {**COMPLETION, "temperature": MARK}),
    ("/v1/completions", {**COMPLETION, MARK: MARK}),
    ("/v1/completions", {**COMPLETION, "prompt": [MARK, 7]}),
    ("/v1/completions", {**COMPLETION, "prompt": MARK + "\ud800"}),
    ("/v1/completions", {**COMPLETION, "prompt": MARK * 100}),
    ("/v1/completions", {**COMPLETION, "model": "none"}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "messages": [{**USER, "role": "tool"}]}),
    ("/v1/chat/completions", {**CHAT, "messages": [{**USER, "role": MARK}]}),
    ("/v1/responses", {"model": "a", "input": MARK, "instructions": MARK}),
    ("/v1/responses", {"model": "a", "input": [{**USER, "type": MARK}]}),
    ("/v1/responses", {"model": "a", "input": MARK, "metadata": {MARK: MARK}, "stream": True}),
    ("/tokenize", {"model": "a", "prompt": MARK}),
    ("/tokenize", {**CHAT, "chat_template_kwargs": {"tools": MARK}}),
)


async def _ask(http: httpx.AsyncClient) -> list[httpx.Response]:
    found = []
    for path, body in ASKED:
        found.append(await http.post(path, content=json.dumps(body)))
        found.append(await http.post(path, content=json.dumps(body)[:-9]))
        wrong = {"authorization": f"Bearer {KEY}X"}
        found.append(await http.post(path, content=json.dumps(body), headers=wrong))
    return found


def test_marked_content_is_in_answers_and_nowhere_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, logger="httpx")  # the client's own
    caplog.set_level(logging.DEBUG)  # last: the level is the handler's too
    records: list[UsageRecord] = []
    made = chatty()
    made.registry.tokenizer.chat_template = TEMPLATE

    async def run() -> tuple[list[httpx.Response], list[httpx.Response], str]:
        async with replica_of(made, CONFIG) as replica:
            await serves(replica, "r1")
            keys = HeldKeys({KEY: {"scopes": ["infer", "metrics", "admin"]}})
            app = build_api(Api(replica, CONFIG.limits, keys, record=records.append))
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app),
                base_url="http://test",
                headers={"authorization": f"Bearer {KEY}"},
            ) as http:
                usual = await _ask(http)
                made.loop.fail_requests = True
                broken = await _ask(http)
                monkeypatch.setattr(Tokenizer, "encode", _fails)
                broken += await _ask(http)
                paths = ("/metrics", "/health", "/v1/models", "/admin/queue", "/openapi.json")
                told = "".join([(await http.get(path)).text for path in paths])
        return usual, broken, told

    usual, broken, told = asyncio.run(run())
    assert sum(answer.status_code == 200 for answer in usual) >= 5
    assert sum(answer.status_code == 500 for answer in broken) >= 6
    assert len(records) > 60
    faults = "".join(answer.text for answer in broken if answer.status_code >= 500)
    strangers = "".join(answer.text for answer in (*usual, *broken) if answer.status_code == 401)
    lines = "".join(record.line() for record in records)
    assert "failed" in caplog.text
    facts = str([getattr(record, FACTS, {}) for record in caplog.records])
    assert "model_not_found" in facts
    for place in (caplog.text, facts, told, lines, faults, strangers):
        assert MARK not in place
        assert KEY not in place
    assert not [answer for answer in (*usual, *broken) if KEY in answer.text]


def _fails(_: object, text: str, **options: object) -> list[int]:
    raise RuntimeError(f"no tokens for {text}")

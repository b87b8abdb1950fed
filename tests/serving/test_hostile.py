"""Requests that no client would send: each is refused or answered, none with a fault of ours."""

import json
from contextlib import ExitStack

import pytest

from tests.serving.hostile import answer, hostile_requests
from tests.serving.listening import listening


@pytest.mark.parametrize(
    "number", [250, pytest.param(9000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_no_hostile_request_hangs_or_is_answered_with_a_fault(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(listening())
        for sent, is_whole in hostile_requests(number):
            received = answer(port, sent, is_whole=is_whole)
            assert received or not is_whole, sent
            status = int(received.split(b" ", 2)[1]) if received else 0
            is_late = status == 504 and b"Seconds: 1e-9" in sent
            assert status < 500 or is_late, (sent, received, caplog.text)
        body = b'{"model": "a", "prompt": "the"}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        received = answer(port, whole, is_whole=True)
        assert not [each for each in caplog.records if each.levelname == "ERROR"], caplog.text
        assert json.loads(received.split(b"\r\n\r\n", 1)[1])["choices"][0]["text"]

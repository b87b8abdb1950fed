"""Long requests, each as a path and a body. Sends none."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.config import RequestLimits

CONTEXT = 2**18
_LONG = 15_000_000
"""Bytes; a body may have 16 MiB."""
_ECHOED = 8000
"""Tokens of a prompt that is taken."""
_ENGLISH = "The quick brown fox was seen again, 23 years later, by the river that it had left. "
_JAPANESE = "素早い茶色の狐が、二十三年前に離れた川のほとりで、もう一度見かけられたという。"


@dataclass(frozen=True, slots=True)
class LongRequest:
    """A body is made when it is wanted. beside: a request that takes the same steps of the model,
    without what is long in this one; None if this one takes none.
    """

    path: str
    body: Callable[[], bytes]
    beside: Callable[[], bytes] | None = None


def _json(**fields: Any) -> bytes:
    """With at most one token to be answered, if any are."""
    answered = {} if "tokens" in fields or "text" in fields else {"max_tokens": 1}
    text = {"prompt": fields.pop("text")} if "text" in fields else {}
    made = {"model": "a", **answered, **text, **fields}
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()


def _said(text: str, num_bytes: int = _LONG) -> str:
    return text * (num_bytes // len(text.encode()))


def _chat(*said: tuple[str, str], **fields: Any) -> bytes:
    return _json(messages=[{"role": who, "content": text} for who, text in said], **fields)


def _calls(num: int) -> bytes:
    """Refused once its tokens are known, so that the model takes no steps."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    return _json(
        messages=[{"role": "user", "content": "x"}, *[asked] * (num - 1)],
        max_tokens=CONTEXT,
    )


_CHATS, _TEXTS = "/v1/chat/completions", "/v1/completions"
_TOKENS = list(range(10, 1010))
REQUESTS: Mapping[str, LongRequest] = {
    "15 MB prompt": LongRequest(_TEXTS, lambda: _json(prompt=_said(_ENGLISH))),
    "15 MB of a user": LongRequest(_CHATS, lambda: _chat(("user", _said(_ENGLISH)))),
    "15 MB of an assistant": LongRequest(
        _CHATS, lambda: _chat(("assistant", _said(_ENGLISH)), ("user", "go on"))
    ),
    "15 MB of a system": LongRequest(
        _CHATS, lambda: _chat(("system", _said(_ENGLISH)), ("user", "go on"))
    ),
    "15 MB of blanks": LongRequest(_CHATS, lambda: _chat(("user", _said(" ")))),
    "prompt of 15 MB of blanks": LongRequest(_TEXTS, lambda: _json(prompt=_said(" "))),
    "4 MB of blanks": LongRequest(
        _CHATS, lambda: _chat(("user", _said(" ", 4_000_000) + "x"), max_tokens=CONTEXT)
    ),
    "4 MB of reasoning": LongRequest(
        _CHATS, lambda: _chat(("assistant", "<think>" + _said(_JAPANESE, 4_000_000)), ("user", "x"))
    ),
    "14 MB Japanese prompt": LongRequest(_TEXTS, lambda: _json(prompt=_said(_JAPANESE, 14 << 20))),
    "14 MB Japanese of a user": LongRequest(
        _CHATS, lambda: _chat(("user", _said(_JAPANESE, 14 << 20)))
    ),
    "14 MB Japanese of an assistant": LongRequest(
        _CHATS, lambda: _chat(("assistant", _said(_JAPANESE, 14 << 20)), ("user", "go on"))
    ),
    "14 MB to /tokenize": LongRequest("/tokenize", lambda: _json(text=_said(_JAPANESE, 14 << 20))),
    "1 MB to /tokenize": LongRequest("/tokenize", lambda: _json(text=_said(_ENGLISH, 1 << 20))),
    "5 million tokens": LongRequest(_TEXTS, lambda: _json(prompt=[10] * 5_000_000)),
    "/detokenize of 3 million": LongRequest("/detokenize", lambda: _json(tokens=_TOKENS * 3000)),
    f"/detokenize of {CONTEXT:,}": LongRequest(
        "/detokenize", lambda: _json(tokens=(_TOKENS * 263)[:CONTEXT])
    ),
    f"{CONTEXT:,} tokens, with no room": LongRequest(
        _TEXTS, lambda: _json(prompt=(_TOKENS * 263)[:CONTEXT])
    ),
    "an echo with logprobs": LongRequest(
        _TEXTS,
        lambda: _json(prompt=_TOKENS * (_ECHOED // 1000), echo=True, logprobs=5),
        lambda: _json(prompt=[*_TOKENS[1:], 9] * (_ECHOED // 1000)),
    ),
    "60,000 stop strings": LongRequest(
        _TEXTS, lambda: _json(prompt="x", stop=[f"stop {number}" for number in range(60_000)])
    ),
    "60,000 in logit_bias": LongRequest(
        _TEXTS,
        lambda: _json(prompt="x", logit_bias={str(number): 1 for number in range(60_000)}),
    ),
    "the most in logit_bias": LongRequest(
        _TEXTS,
        lambda: _json(
            prompt="x",
            logit_bias={str(number): 1 for number in range(RequestLimits().logit_bias)},
        ),
    ),
    "60,000 empty lists": LongRequest(_TEXTS, lambda: _json(prompt="x", metadata=[[]] * 60_000)),
    "4,090 messages with calls": LongRequest(_CHATS, lambda: _calls(4090)),
}

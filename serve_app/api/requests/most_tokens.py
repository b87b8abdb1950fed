"""Refuses prompts that no model here can take, by their sizes. Needs no tokenizer, imports little.

Of a chat it counts what users say: a template may leave out what others said, and white space at
its ends.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from serve_app.protocol.errors import bad_request, too_long
from serve_app.protocol.token_ids import num_tokens

_SLICE = 1 << 16


class MostTokens(TypedDict):
    """tokens: of a prompt.   weights: see `Models`."""

    tokens: int
    weights: Sequence[float] | None


def check_lengths(fields: Mapping[str, Any], most: MostTokens) -> None:
    """fields: of a body, with token ids packed. Raises ProtocolError 400."""
    for prompt in _each(fields.get("prompt")):
        _check("prompt", _fewest(prompt, most), most)
    tokens = fields.get("tokens")
    if isinstance(tokens, bytes) and num_tokens(tokens) > most["tokens"]:
        num, limit = num_tokens(tokens), most["tokens"]
        raise bad_request(f"Invalid 'tokens': {num} is above the limit of {limit}", "tokens")
    for name in ("messages", "input"):
        total = 0
        for text in _said_by_users(fields.get(name)):
            total += _fewest(text.strip(), most)
            _check(name, total, most)


def _check(param: str, fewest: int, most: MostTokens) -> None:
    if fewest > most["tokens"]:
        raise too_long(
            f"The {param} has at least {fewest} tokens; no model here takes more than "
            f"{most['tokens']}, so the prompt is too long",
            param,
        )


def _fewest(prompt: object, most: MostTokens) -> int:
    """At least so many tokens. Ends once there are too many."""
    if isinstance(prompt, bytes):
        return num_tokens(prompt)
    weights = most["weights"]
    if not isinstance(prompt, str) or weights is None:
        return 0
    total = 0.0
    for begin in range(0, len(prompt), _SLICE):
        counts = Counter(prompt[begin : begin + _SLICE].encode(errors="replace"))
        total += sum(weights[byte] * count for byte, count in counts.items())
        if total > most["tokens"] + 2:
            break
    return max(0, int(total) - 1)


def _each(prompt: object) -> list[Any]:
    return prompt if isinstance(prompt, list) else [prompt]


def _said_by_users(given: object) -> Iterator[str]:
    """given: messages, items, or a text."""
    if isinstance(given, str):
        yield given
    for message in given if isinstance(given, list) else ():
        if isinstance(message, dict) and message.get("role") == "user":
            for part in _each(message.get("content")):
                text = part.get("text") if isinstance(part, dict) else part
                if isinstance(text, str):
                    yield text

"""Refuses prompts that no model here can take, by their sizes. Needs no tokenizer, imports little.

Of a chat it counts what is said in any role, but no reasoning and no calls: a template may leave
these out, or write them otherwise, and white space at the ends of texts. For that, and for texts
of which a token may have a hundred bytes, such as blanks, there is a limit in bytes. No text that
is meant to be read comes near it.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from serve_app.api.requests.media import is_media
from serve_app.protocol.errors import bad_request, too_long
from serve_app.protocol.token_ids import num_tokens

_SLICE = 1 << 16
_BYTES_A_TOKEN = 16
"""Of texts in UTF-8. Those that people write have 3 to 5, and some in Hindi or Thai up to 12."""
_FEW_BYTES = 2**20
"""So many are taken however short the contexts are."""
_SAID = ("messages", "input", "system", "instructions")
_THOUGHTS = re.compile(r"[<\[|/:◁](?:think|thought|reason|channel)", re.IGNORECASE)
"""A mark of reasoning. A template may leave out what of an assistant's text is before it."""


class MostTokens(TypedDict):
    """tokens: of a prompt.   weights: see `Models`."""

    tokens: int
    weights: Sequence[float] | None


def check_lengths(fields: Mapping[str, Any], most: MostTokens) -> None:
    """fields: of a body, with token ids packed. Raises ProtocolError 400."""
    bound = max(_FEW_BYTES, _BYTES_A_TOKEN * most["tokens"])
    for prompt in _each(fields.get("prompt")):
        _check("prompt", _fewest(prompt, most), most)
        _check_bytes("prompt", prompt, bound)
    tokens = fields.get("tokens")
    if isinstance(tokens, bytes) and num_tokens(tokens) > most["tokens"]:
        num, limit = num_tokens(tokens), most["tokens"]
        raise bad_request(f"Invalid 'tokens': {num} is above the limit of {limit}", "tokens")
    for name in _SAID:
        total = 0
        for text in _said(fields.get(name)):
            total += _fewest(text.strip(), most)
            _check(name, total, most)
    for name, value in fields.items():
        if name != "prompt":
            _check_bytes(name, value, bound)


def _check_bytes(param: str, value: object, bound: int) -> None:
    num = _num_bytes(value)
    if num > bound:
        refused = too_long if param in ("prompt", *_SAID) else bad_request
        words = f"it has {num} bytes of text; at most {bound} are accepted here"
        raise refused(f"Invalid '{param}': {words}", param)


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


def _num_bytes(value: object) -> int:
    """Of all texts in it, names of fields too. Images and the like are refused by their kind."""
    num, left = 0, [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            num += len(each) if each.isascii() else len(each.encode(errors="replace"))
        elif isinstance(each, dict) and not is_media(each.get("type")):
            left += [*each, *each.values()]
        elif isinstance(each, list):
            left += each
    return num


def _each(prompt: object) -> list[Any]:
    return prompt if isinstance(prompt, list) else [prompt]


def _said(given: object) -> Iterator[str]:
    """given: messages, items, or a text."""
    if isinstance(given, str):
        yield given
    for message in given if isinstance(given, list) else ():
        if isinstance(message, dict):
            yield from _shown(message)


def _shown(message: Mapping[str, Any]) -> Iterator[str]:
    """Of a message, the output of a function, or a block of a system prompt."""
    if "role" not in message:
        yield from _texts(message.get("output"))
        yield from _texts([message])
    elif message["role"] != "assistant":
        yield from _texts(message.get("content"))
    else:
        texts = list(_texts(message.get("content")))
        if not any(map(_THOUGHTS.search, texts)):
            yield from texts


def _texts(content: object) -> Iterator[str]:
    """content: a text, or blocks, of which results of tools have their own content."""
    if isinstance(content, str):
        yield content
    for block in content if isinstance(content, list) else ():
        if isinstance(block, str):
            yield block
        elif isinstance(block, dict):
            if isinstance(block.get("text"), str):
                yield block["text"]
            if block.get("type") == "tool_result":
                yield from _texts(block.get("content"))

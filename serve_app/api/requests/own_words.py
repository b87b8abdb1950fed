"""Puts refusals of a chat into the words of the protocol that it was asked in. Refuses nothing."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from serve_app.protocol.errors import ProtocolError

Words = Mapping[str, str]
"""What a chat calls a field, and what the protocol calls it, where they differ. `[]` stands for a
position in a list: `tools[].function.name`.
"""


@contextmanager
def told_in(words: Words) -> Iterator[None]:
    """What is refused within names what the client has sent."""
    try:
        yield
    except ProtocolError as error:
        raise in_own_words(error, words) from None


def in_own_words(error: ProtocolError, words: Words) -> ProtocolError:
    """The same refusal, of the same field under its own name."""
    message, param = error.message, error.param
    for word, own in words.items():
        field = re.escape(word).replace(r"\[\]", r"(\[\d+\])") + r"(?!\w)"
        named = own.replace("[]", r"\1")
        if param is not None and re.match(field, param):
            message = re.sub(rf"(?<='){field}|(?<=\bthe ){field}", named, message)
            param = re.sub(field, named, param, count=1)
            break
    return ProtocolError(error.code, message, param, error.retry_after_s)

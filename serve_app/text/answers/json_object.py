"""Finds where a JSON object ends that comes in pieces. Reads no value."""

import re

_SIGN = re.compile(r'["{}\[\]]')
_IN_TEXT = re.compile(r'["\\]')


class JsonObject:
    """begun: how many braces are open before the first character that it is given."""

    __slots__ = ("_depth", "_escaped", "_in_text", "ended")

    def __init__(self, begun: int = 0) -> None:
        self._depth = begun
        self._in_text = False
        self._escaped = False
        self.ended = False

    def take(self, text: str) -> int:
        """How many characters of `text` are its own. `ended` then says whether that is all."""
        at = 0
        while not self.ended and at < len(text):
            at = self._text(text, at) if self._in_text else self._outside(text, at)
        return at

    def _text(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        found = _IN_TEXT.search(text, at)
        if found is None:
            return len(text)
        self._escaped = found.group() == "\\"
        self._in_text = self._escaped
        return found.end()

    def _outside(self, text: str, at: int) -> int:
        found = _SIGN.search(text, at)
        if found is None:
            return len(text)
        if found.group() == '"':
            self._in_text = True
        else:
            self._depth += 1 if found.group() in "{[" else -1
            self.ended = self._depth <= 0
        return found.end()

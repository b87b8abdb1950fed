"""Turns tokens into text, one at a time, in whole characters. The caller supplies the decoder."""

from collections.abc import Callable, Sequence

_UNKNOWN = "\ufffd"
CONTEXT = 8
"""Tokens kept before the new ones, because a token's text depends on them (spaces, bytes)."""
_WINDOW = 24
"""A window of more tokens is cut, so that a push costs the same at every length."""
_UNSURE = 16
"""A character that is unfinished after this many tokens will never be finished."""
_LONGEST_PART = 3
"""Bytes of a character without its last one."""


class Detokenizer:
    """Decodes a growing list of tokens piece by piece; the pieces together are the text so far.

    A character whose bytes are not all there yet decodes to U+FFFD and is held back. `context`
    are the tokens before (the end of the prompt). The text of the first token depends on them: a
    sentencepiece tokenizer drops the space in front of a word that begins a text.

    For tokens whose bytes are valid UTF-8 the pieces joined are
    `decode(context + tokens)[len(decode(context)):]`.
    """

    __slots__ = ("_decode", "_pending", "_shown", "_window")

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(context[-CONTEXT:])
        self._shown = len(decode(self._window)) if self._window else 0
        self._pending = 0

    def push(self, token: int) -> str:
        """The characters that `token` completes."""
        before = len(self._window)
        self._window.append(token)
        self._pending += 1
        text = self._decode(self._window)
        held = len(text) - len(text.rstrip(_UNKNOWN))
        if self._pending > _UNSURE:
            held = min(held, _LONGEST_PART)
        end = max(len(text) - held, self._shown)
        piece = text[self._shown : end]
        if not held:
            self._pending = 0
        if before >= _WINDOW and not piece and not held:
            self._window.pop()  # has no text (a special token that is skipped)
            return ""
        self._shown = end
        if before >= _WINDOW:
            self._cut(text)
        return piece

    def flush(self) -> str:
        """After the last token: whatever is still held back, even if it is unfinished."""
        text = self._decode(self._window) if self._window else ""
        piece = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return piece

    def _cut(self, text: str) -> None:
        """Forgets old tokens if that provably does not change what the rest decodes to."""
        unshown = max(0, len(text) - self._shown)
        must = len(self._window) > 4 * _WINDOW
        for keep in range(CONTEXT, CONTEXT + 5):
            rest = self._decode(self._window[-keep:])
            same = rest.strip() and not rest.startswith(_UNKNOWN) and text.endswith(rest)
            if same or must:
                del self._window[:-keep]
                self._shown = max(0, len(rest) - unshown)
                return

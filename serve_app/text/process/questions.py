"""The questions that a text process has not answered yet. Sends nothing."""

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from serve_app.errors import BadGrammar, BadParameters
from serve_app.text.errors import (
    BadResponseTemplate,
    BadVariable,
    NoChatTemplate,
    NoForcedCalls,
    NoToolCalls,
    TextError,
    TextFailed,
    TextUnavailable,
    TooManyTokens,
)
from serve_app.text.process.frames import pack
from serve_app.text.process.text_messages import AskedQuestion, Question, Reply

_ERRORS = {
    kind.__name__: kind
    for kind in (
        TextError,
        BadGrammar,
        BadParameters,
        BadResponseTemplate,
        BadVariable,
        NoChatTemplate,
        NoForcedCalls,
        NoToolCalls,
        TextFailed,
        TextUnavailable,
        TooManyTokens,
    )
}
_LONG_QUESTION = 20_000
"""Questions of more bytes have a lane of their own, so that short ones need not wait for them."""
_MOST_TRIES = 2
"""A question at which two processes have ended may be what ended them."""


@dataclass(slots=True)
class Asked:
    """One question. since: when it was last sent."""

    number: int
    lane: str
    packed: bytes
    answer: "asyncio.Future[Any]"
    since: float = 0.0
    tries: int = 0

    def sent(self, now: float) -> AskedQuestion:
        """What to send."""
        self.since = now
        self.tries += 1
        return self.number, self.lane, self.packed

    def fail(self, error: Exception) -> None:
        """Unless it is answered."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def forget(self) -> None:
        """To be called last. An exception that is the answer leads to this by its traceback, and
        must not be led back to, or all that was asked stays until garbage is looked for.
        """
        del self.answer, self.packed


class Questions:
    """By number. Each is here as long as somebody waits for its answer."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._asked: dict[int, Asked] = {}

    @contextmanager
    def asked(self, question: Question) -> Iterator[Asked]:
        """Raises TextError for a question that cannot be packed."""
        try:
            packed = pack(question)
        except ValueError as error:
            raise TextError("what was sent is nested too deeply") from error
        number, lane = next(self._numbers), _lane(question, packed)
        asked = Asked(number, lane, packed, asyncio.get_running_loop().create_future())
        self._asked[number] = asked
        try:
            yield asked
        finally:
            del self._asked[number]
            asked.forget()

    def again(self, now: float) -> list[AskedQuestion]:
        """For a process that takes over. What was sent too often fails with TextUnavailable."""
        found = []
        for asked in self._asked.values():
            if asked.tries >= _MOST_TRIES:
                asked.fail(TextUnavailable("the text process has ended at this request twice"))
            else:
                found.append(asked.sent(now))
        return found

    def settle(self, reply: Reply) -> None:
        """Takes an answer, if somebody still waits for it."""
        asked = self._asked.get(reply["number"])
        if asked is None or asked.answer.done():
            return
        if reply["failure"] is None:
            asked.answer.set_result(reply["answer"])
        else:
            kind, text = reply["failure"]
            asked.fail(_ERRORS[kind](text))

    def give_up(self, since: float) -> bool:
        """Fails the questions that were sent before then. Whether there were any."""
        sent = [asked for asked in self._asked.values() if asked.tries and not asked.answer.done()]
        old = [asked for asked in sent if asked.since < since]
        for asked in old:
            asked.fail(TextUnavailable("the text process did not answer"))
        return bool(old)

    def fail_all(self, reason: str) -> None:
        """With TextUnavailable."""
        for asked in self._asked.values():
            asked.fail(TextUnavailable(reason))


def _lane(question: Question, packed: bytes) -> str:
    """A chat template that is slow holds up its own model alone."""
    if question["ask"] == "chat":
        return f"chats of {question['model']}"
    if question["ask"] == "grammar":
        return "grammars"
    return "long texts" if len(packed) > _LONG_QUESTION else "short texts"

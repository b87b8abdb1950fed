"""A text process without a process: its work, done on the parent's event loop. Can be killed."""

import asyncio
from pathlib import Path
from typing import Any

from serve_app.grammar.vocabulary import checked_source
from serve_app.text.answers.response_format import ResponseFormat
from serve_app.text.chat_template import ChatTemplate, render
from serve_app.text.errors import TextError
from serve_app.text.process.frames import Frames, frame
from serve_app.text.process.text_messages import Answer, Turn
from serve_app.text.process.text_process import Hear
from serve_app.text.process.text_server import TextServer
from serve_app.text.tokenizer import Tokenizer

_READ: dict[tuple[tuple[str, bytes], ...], Tokenizer] = {}


def _read_once(directory: Path, override: ResponseFormat | None) -> Tokenizer:
    """As `Tokenizer.load`; of files that were read before, what they were then.

    Reading takes longer than all else that a test asks of an inline process.
    """
    if override is not None:
        return Tokenizer.load(directory, override)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    content = tuple((str(path.relative_to(directory)), path.read_bytes()) for path in files)
    if content not in _READ:
        _READ[content] = Tokenizer.load(directory)
    return _READ[content]


class InlineWorkers:
    """As workers, without their limits."""

    def render(self, template: ChatTemplate, *asked: Any) -> str:
        try:
            return render(template, *asked)
        except Exception as error:
            raise TextError(f"refused the messages: {type(error).__name__}: {error}") from error

    def source(self, kind: str, value: Any) -> str:
        return checked_source(kind, value)


class InlineProcess:
    """Answers in a later turn of the loop, and takes and gives only what frames can carry.

    held: answers nothing, until it is `released`.
    """

    def __init__(self, hear: Hear, *, held: bool = False) -> None:
        self.turns: list[Turn] = []
        self._hear = hear
        self._held = held
        self._server = TextServer(InlineWorkers(), _read_once)
        self._there = Frames()
        self._back = Frames()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, directory: str, hear: Hear) -> "InlineProcess":
        return cls(hear)

    def send(self, turn: Turn) -> None:
        for arrived in self._there.feed(frame(turn)):
            self.turns.append(arrived)
        if not self._held:
            asyncio.get_running_loop().call_soon(self.answer)

    def release(self) -> None:
        """Answers what has come, and what comes."""
        self._held = False
        self.answer()

    def answer(self) -> None:
        while self.turns and not self._ended.done():
            turn = self.turns.pop(0)
            said = self._server.turn(turn)
            if turn["opened"] or turn["prompts"] or turn["tokens"]:
                self._say({"said": said, "reply": None})
            for number, _, question in turn["questions"]:
                self._say({"said": None, "reply": self._server.reply(number, question)})

    def _say(self, answer: Answer) -> None:
        for arrived in self._back.feed(frame(answer)):
            if not self._ended.done():
                self._hear(arrived)

    def kill(self) -> None:
        if not self._ended.done():
            self._ended.set_result("killed")

    async def ended(self) -> str:
        return await asyncio.shield(self._ended)

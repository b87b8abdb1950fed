"""What the text process does: a turn or a question in, its answer out. No process, no pipe."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from serve_app.protocol.messages import Piece
from serve_app.text.choice_text import ChoiceText
from serve_app.text.errors import TextError, TextFailed
from serve_app.text.process.frames import unpack
from serve_app.text.process.text_messages import Opening, Question, Reply, Said, Turn
from serve_app.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


class TextServer:
    """The tokenizers of the releases, and the text so far of every open choice."""

    def __init__(self) -> None:
        self._tokenizers: dict[str, dict[str, Tokenizer]] = {}
        self._choices: dict[int, ChoiceText] = {}

    def turn(self, turn: Turn) -> list[Said]:
        """One answer for each event of a choice that is open, in order, and for choices that fail.

        Leaves the questions to `reply`. Raises TextError if a release cannot be read.
        """
        for release, directories in turn["releases"].items():
            self._load(release, directories)
        said: list[Said] = []
        for opening in turn["opened"]:
            self._open(opening, said)
        for key, logprobs in turn["prompts"]:
            choice = self._choices.get(key)
            if choice is not None:
                tell = choice.echo if logprobs is None else partial(choice.add_prompt, logprobs)
                self._say(key, tell, said)
        for key, token, logprob, finish in turn["tokens"]:
            choice = self._choices.get(key)
            if choice is not None:  # else it has ended here, and this was on its way
                self._say(key, partial(choice.add, token, logprob, finish), said)
        for key in turn["closed"]:
            self._choices.pop(key, None)
        return said

    def reply(self, number: int, packed: bytes) -> Reply:
        """The answer to one question. May be called from any thread."""
        try:
            answer = self._answer(unpack(packed))
        except TextError as error:
            failure = (type(error).__name__, str(error))
        except Exception as error:  # noqa: BLE001  whatever it is, the next may be answered
            _log.exception("a question about a text failed")
            failure = (TextFailed.__name__, f"{type(error).__name__} in the text process")
        else:
            return {"number": number, "answer": answer, "failure": None}
        return {"number": number, "answer": None, "failure": failure}

    def _answer(self, question: Question) -> Any:
        if question["ask"] == "load":
            return self._load(question["release"], question["directories"])
        if question["ask"] == "drop":
            return self._tokenizers.pop(question["release"], None) and None
        tokenizer = self._tokenizers[question["release"]][question["model"]]
        if question["ask"] == "encode":
            special = question["special"]
            return [tokenizer.encode(text, special=special) for text in question["texts"]]
        if question["ask"] == "chat":
            return tokenizer.encode_chat(question["messages"], question["variables"])
        return tokenizer.decode(question["tokens"], skip_special=False)

    def _load(self, release: str, directories: Mapping[str, str]) -> dict[str, int | None]:
        found = {}
        for name, at in directories.items():
            try:
                found[name] = Tokenizer.load(Path(at))
            except TextError as error:
                raise TextError(f"model {name}: {error}") from error
        self._tokenizers[release] = found
        return {name: tokenizer.eos_token_id for name, tokenizer in found.items()}

    def _open(self, opening: Opening, said: list[Said]) -> None:
        key = opening["key"]
        try:
            choice = ChoiceText(
                opening["number"],
                opening["prompt"],
                self._tokenizers[opening["release"]][opening["model"]],
                opening["wanted"],
            )
            if opening["past"] is not None:
                choice.catch_up(opening["past"])
        except Exception:  # noqa: BLE001  the choice ends; others go on
            _log.exception("a choice of %s could not be opened", opening["model"])
            said.append((key, None))
        else:
            self._choices[key] = choice

    def _say(self, key: int, tell: Callable[[], Piece], said: list[Said]) -> None:
        piece: Piece | None = None
        try:
            piece = tell()
        except Exception:  # noqa: BLE001  the choice ends; others go on
            _log.exception("tokens could not be turned into text")
        if piece is None or piece["finish"] is not None:
            del self._choices[key]
        said.append((key, piece))

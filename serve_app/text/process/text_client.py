"""The text of a replica's requests, made by a process of its own. Outlives that process.

What it was told and has not answered is kept here. A new process is told all of it, with what was
answered before, so no text is lost and none comes twice.
"""

import asyncio
import itertools
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from serve_app.freeing import Freeing
from serve_app.protocol.messages import Constraint, Conversation
from serve_app.text.choice_facts import TokenLogprob, Wanted
from serve_app.text.errors import TextFailed, TextUnavailable
from serve_app.text.process.keeper import Keeper
from serve_app.text.process.open_choice import OpenChoice, Receive
from serve_app.text.process.questions import Questions
from serve_app.text.process.text_messages import (
    Answer,
    Question,
    Said,
    TokenizerFacts,
    TokenizerFiles,
    Turn,
    VocabularyFacts,
    empty_turn,
)
from serve_app.text.process.text_process import StartProcess

_LARGE = 2**20
"""After a question of so many bytes, the memory that it took is given back."""
ANSWER_S = 60.0
"""A process that has not answered for so long hangs."""


class TextClient:
    """All on one event loop. Nothing waits for the process, except who asks a question."""

    def __init__(
        self,
        start: StartProcess,
        *,
        response_template: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """response_template: by which answers of all models are parsed; None: by their own."""
        self._response_template = response_template
        self._clock = clock
        self._keeper = Keeper(
            start,
            on_started=self._tell_all,
            hears=self._hear,
            hangs=self._hangs,
            on_lost=self._lost,
        )
        self._numbers = itertools.count()
        self._releases: dict[str, TokenizerFiles] = {}
        self._choices: dict[int, OpenChoice] = {}
        self._questions = Questions()
        self._turn = empty_turn()
        self._turn_is_due = False
        self._unanswered: deque[float] = deque()
        self._freeing = Freeing()

    @property
    def num_restarts(self) -> int:
        return self._keeper.num_restarts

    @property
    def trouble(self) -> str | None:
        """Why there is no text any more, or None."""
        return self._keeper.trouble

    def begin(self) -> None:
        """Starts the process. Returns before it answers; it may be asked at once."""
        self._keeper.begin()

    async def aclose(self) -> None:
        """Ends the process. Nothing may be asked any more."""
        await self._keeper.aclose()

    async def load(
        self, release: str, models: Iterable[str], write: Callable[[str, Path], None]
    ) -> dict[str, TokenizerFacts]:
        """Reads the tokenizers of a release, and tells of each.

        write: puts the files of a model's tokenizer into a directory; called on a thread.
        Raises: TextError if one cannot be read, and what `write` raises.
        """
        at = Path(self._keeper.directory) / f"{next(self._numbers)}"
        directories = {name: str(at / str(number)) for number, name in enumerate(models)}
        try:
            for name, directory in directories.items():
                await asyncio.to_thread(write, name, Path(directory))
            files: TokenizerFiles = {
                "directories": directories,
                "response_template": self._response_template,
            }
            load: Question = {"ask": "load", "release": release, "files": files}
            found: dict[str, TokenizerFacts] = await self._ask(load)
        except BaseException:
            shutil.rmtree(at, ignore_errors=True)
            raise
        self._releases[release] = files
        return found

    async def drop(self, release: str) -> None:
        """Forgets the tokenizers of a release, if it is there. No choice of it may be open."""
        files = self._releases.pop(release, None)
        for directory in files["directories"].values() if files else ():
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        if self.trouble is None:
            await self._ask({"ask": "drop", "release": release})

    async def encode(
        self, of: tuple[str, str], texts: Sequence[str], *, most: int, special: bool = True
    ) -> list[list[int]]:
        """The tokens of each text. of: release and model.   most, special: see `Tokenizer.encode`.

        Raises: TooManyTokens, TextError; TextFailed and TextUnavailable, as all that asks.
        """
        release, model = of
        question: Question = {
            "ask": "encode",
            "release": release,
            "model": model,
            "texts": texts,
            "special": special,
            "most": most,
        }
        found: list[list[int]] = await self._ask(question)
        return found

    async def encode_chat(
        self, of: tuple[str, str], chat: Conversation, *, most: int
    ) -> tuple[list[int], str | None]:
        """The tokens of a conversation, and what of the answer they have already; None for that if
        the model's answers are not parsed.

        Raises: TooManyTokens, BadVariable, NoChatTemplate, NoToolCalls, NoForcedCalls, and
        TextError for a template that refuses, or breaks its limits.
        """
        release, model = of
        question: Question = {
            "ask": "chat",
            "release": release,
            "model": model,
            "chat": chat,
            "most": most,
        }
        tokens, begun = await self._ask(question)
        return tokens, begun

    async def grammar(
        self,
        of: tuple[str, str],
        constraint: Constraint | None,
        chat: Conversation | None,
        begun: str | None,
    ) -> str | None:
        """What an answer must obey: see `GrammarQuestion`. Raises: BadGrammar."""
        release, model = of
        # of the conversation, all that counts here
        told: Conversation | None = None
        if chat is not None:
            told = {**chat, "messages": [], "variables": {}}
        question: Question = {
            "ask": "grammar",
            "release": release,
            "model": model,
            "constraint": constraint,
            "chat": told,
            "begun": begun,
        }
        source: str | None = await self._ask(question)
        return source

    async def vocabulary(self, of: tuple[str, str]) -> VocabularyFacts:
        """Of a model whose vocabulary has a digest."""
        release, model = of
        found: VocabularyFacts = await self._ask(
            {"ask": "vocabulary", "release": release, "model": model}
        )
        return found

    async def decode(self, of: tuple[str, str], tokens: Sequence[int]) -> str:
        """The text of tokens, with special ones."""
        release, model = of
        question: Question = {"ask": "decode", "release": release, "model": model, "tokens": tokens}
        text: str = await self._ask(question)
        return text

    def open(
        self,
        of: tuple[str, str],
        number: int,
        prompt: Sequence[int],
        wanted: Wanted,
        receive: Receive,
    ) -> int:
        """A new choice; its key. See `OpenChoice`. Raises TextUnavailable."""
        if self.trouble is not None:
            raise TextUnavailable(self.trouble)
        key = next(self._numbers)
        choice = OpenChoice(key, of, number, prompt, wanted, receive)
        self._choices[key] = choice
        if self._is_told():
            self._turn["opened"].append(choice.opening())
        return key

    def echo(self, key: int, logprobs: Sequence[TokenLogprob | None] | None) -> None:
        """Gives the choice its prompt as the first piece, with log-probabilities if there are any.

        To be called before there are tokens.
        """
        choice = self._choices.get(key)
        if choice is not None:
            choice.echo(logprobs)
            self._tell_next(choice)

    def add(self, key: int, token: int, logprob: TokenLogprob | None, finish: str | None) -> None:
        """One more token: see `ChoiceText.add`. Nothing happens if the choice has ended."""
        choice = self._choices.get(key)
        if choice is not None:
            event = key, token, logprob, finish
            choice.tokens.append(event)
            if choice.is_echoed and self._is_told():
                self._turn["tokens"].append(event)

    def close(self, key: int) -> None:
        """Nothing more is received."""
        if self._choices.pop(key, None) is not None and self._is_told():
            self._turn["closed"].append(key)

    async def _ask(self, question: Question) -> Any:
        if self.trouble is not None:
            raise TextUnavailable(self.trouble)
        with self._questions.asked(question) as asked:
            if len(asked.packed) > _LARGE:
                self._freeing.soon()
            if self._is_told():
                self._turn["questions"].append(asked.sent(self._clock()))
            return await asked.answer

    def _tell_next(self, choice: OpenChoice) -> None:
        """After a part of its prompt was answered, or before the first."""
        if self._is_told():
            _add_next(choice, self._turn)

    def _is_told(self) -> bool:
        """Whether there is a process to tell, with this turn. If not, the next is told all."""
        if self._keeper.is_running and not self._turn_is_due:
            self._turn_is_due = True
            asyncio.get_running_loop().call_soon(self._send)
        return self._keeper.is_running

    def _tell_all(self) -> None:
        """To a process that knows nothing."""
        self._unanswered.clear()
        self._turn = turn = empty_turn()
        turn["releases"] = self._releases
        for choice in self._choices.values():
            turn["opened"].append(choice.opening())
            _add_next(choice, turn)
        turn["questions"] += self._questions.again(self._clock())
        self._send()

    def _send(self) -> None:
        self._turn_is_due = False
        turn, self._turn = self._turn, empty_turn()
        if turn["opened"] or turn["prompts"] or turn["tokens"]:
            self._unanswered.append(self._clock())
        self._keeper.send(turn)

    def _hear(self, answer: Answer) -> None:
        if answer["said"] is not None:
            self._unanswered.popleft()
            for said in answer["said"]:
                self._receive(said)
        if answer["reply"] is not None:
            self._questions.settle(answer["reply"])

    def _receive(self, said: Said) -> None:
        key, piece = said
        choice = self._choices.get(key)
        if choice is None:
            return  # closed
        if piece is None or piece["finish"] is not None:
            del self._choices[key]
        if piece is None:
            choice.fail(TextFailed("the text process failed at a choice"))
            return
        was_echoed = choice.is_echoed
        choice.receive(piece)
        if not was_echoed and key in self._choices:
            self._tell_next(choice)

    def _hangs(self) -> bool:
        since = self._clock() - ANSWER_S
        stuck = self._questions.give_up(since)
        return stuck or bool(self._unanswered and self._unanswered[0] < since)

    def _lost(self, reason: str) -> None:
        choices, self._choices = self._choices, {}
        for choice in choices.values():
            choice.fail(TextUnavailable(reason))
        self._questions.fail_all(reason)


def _add_next(choice: OpenChoice, turn: Turn) -> None:
    """The next part of a choice's prompt; if nothing of that is left, what came of its answer."""
    event = choice.prompt_event()
    if event is None:
        turn["tokens"] += choice.tokens
    else:
        turn["prompts"].append(event)

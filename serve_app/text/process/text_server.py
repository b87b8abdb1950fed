"""What the text process does: a turn or a question in, its answer out. No process, no pipe."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from serve_app.errors import BadGrammar, where
from serve_app.protocol.messages import Piece
from serve_app.text.answers.finding import GIVEN
from serve_app.text.answers.response_format import ResponseFormat, read_format
from serve_app.text.chat_prompt import ChatPrompt
from serve_app.text.chat_template import forbidden
from serve_app.text.choice_text import ChoiceText
from serve_app.text.constraints.answer_grammar import Written, answer_grammar
from serve_app.text.errors import (
    BadVariable,
    NoChatTemplate,
    NoForcedCalls,
    NoToolCalls,
    TextError,
    TextFailed,
)
from serve_app.text.process.checked_sources import CheckedSources
from serve_app.text.process.frames import unpack
from serve_app.text.process.template_workers import Workers
from serve_app.text.process.text_messages import (
    ChatQuestion,
    Opening,
    Question,
    Reply,
    Said,
    TokenizerFacts,
    TokenizerFiles,
    Turn,
    VocabularyFacts,
    failed,
)
from serve_app.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

ReadTokenizer = Callable[[Path, ResponseFormat | None], Tokenizer]


class TextServer:
    """The tokenizers of the releases, and the text so far of every open choice.

    workers: apply chat templates, and check grammars.   read: see `Tokenizer.load`.
    """

    def __init__(self, workers: Workers, read: ReadTokenizer = Tokenizer.load) -> None:
        self._read = read
        self._render = workers.render
        self._sources = CheckedSources(workers.source)
        self._tokenizers: dict[str, dict[str, Tokenizer]] = {}
        self._choices: dict[int, ChoiceText] = {}

    def turn(self, turn: Turn) -> list[Said]:
        """One answer for each event of a choice that is open, in order, and for choices that fail.

        Leaves the questions to `reply`. Raises TextError if a release cannot be read.
        """
        for release, files in turn["releases"].items():
            self._load(release, files)
        said: list[Said] = []
        for opening in turn["opened"]:
            self._open(opening, said)
        for key, num, logprobs in turn["prompts"]:
            choice = self._choices.get(key)
            if choice is not None:
                tell = partial(choice.echo, num)
                if logprobs is not None:
                    tell = partial(choice.add_prompt, logprobs)
                self._say(key, tell, said)
        for key, token, logprob, finish in turn["tokens"]:
            choice = self._choices.get(key)
            if choice is not None:  # else it has ended here, and this was on its way
                self._say(key, partial(choice.add, token, logprob, finish), said)
        for key in turn["closed"]:
            self._choices.pop(key, None)
        return said

    def reply(self, number: int, packed: bytes) -> Reply:
        """The answer to one question. May be called from any thread.

        Raises ConnectionError if chat templates cannot be applied any more.
        """
        try:
            answer = self._answer(unpack(packed))
        except ConnectionError:
            raise
        except (BadGrammar, TextError) as error:
            return failed(number, error)
        except Exception as error:  # noqa: BLE001  whatever it is, the next may be answered
            _log.error("a question about a text failed: %s", where(error))
            return failed(number, TextFailed(f"{type(error).__name__} in the text process"))
        return {"number": number, "answer": answer, "failure": None}

    def _answer(self, question: Question) -> Any:
        if question["ask"] == "load":
            return self._load(question["release"], question["files"])
        if question["ask"] == "drop":
            return self._tokenizers.pop(question["release"], None) and None
        tokenizer = self._tokenizers[question["release"]][question["model"]]
        if question["ask"] == "encode":
            special, most = question["special"], question["most"]
            return [
                tokenizer.encode(text, special=special, most=most) for text in question["texts"]
            ]
        if question["ask"] == "chat":
            return self._chat(tokenizer, question)
        if question["ask"] == "vocabulary":
            return _vocabulary(tokenizer)
        if question["ask"] == "grammar":
            return answer_grammar(
                Written(tokenizer.form, tokenizer.marks),
                question["constraint"],
                question["chat"],
                question["begun"],
                self._sources.source,
            )
        return tokenizer.decode(question["tokens"], skip_special=False)

    def _chat(self, tokenizer: Tokenizer, asked: ChatQuestion) -> tuple[list[int], str | None]:
        model, chat = asked["model"], asked["chat"]
        unfit = forbidden(chat["variables"])
        if unfit is not None:
            raise BadVariable(f"chat_template_kwargs must not contain '{unfit}'")
        try:
            template = tokenizer.chat_template(with_tools=bool(chat["tools"]))
            prompt = ChatPrompt(model, chat, template, tokenizer.form)
            prompt.check_tools()
            text = self._render(template, prompt.messages(), prompt.variables())
        except (NoChatTemplate, NoForcedCalls, NoToolCalls):
            raise
        except TextError as error:
            raise TextError(f"the chat template of model '{model}' {error}") from error
        begun, forced = prompt.begun(text)
        return tokenizer.encode(text + forced, special=False, most=asked["most"]), begun

    def _load(self, release: str, files: TokenizerFiles) -> dict[str, TokenizerFacts]:
        given = files["response_template"]
        override = None if given is None else read_format(GIVEN, given)
        found = {}
        for name, at in files["directories"].items():
            try:
                found[name] = self._read(Path(at), override)
            except TextError as error:
                raise TextError(f"model {name}: {error}") from error
        self._tokenizers[release] = found
        return {name: _facts(each) for name, each in found.items()}

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
        except Exception as error:  # noqa: BLE001  the choice ends; others go on
            told = where(error)
            _log.error("a choice of %s could not be opened: %s", opening["model"], told)
            said.append((key, None))
        else:
            self._choices[key] = choice

    def _say(self, key: int, tell: Callable[[], Piece], said: list[Said]) -> None:
        piece: Piece | None = None
        try:
            piece = tell()
        except Exception as error:  # noqa: BLE001  the choice ends; others go on
            _log.error("tokens could not be turned into text: %s", where(error))
        if piece is None or piece["finish"] is not None:
            del self._choices[key]
        said.append((key, piece))


def _facts(tokenizer: Tokenizer) -> TokenizerFacts:
    form = None if tokenizer.form is None else tokenizer.form.name
    digest, weights = tokenizer.vocabulary_digest(), tokenizer.weights
    return tokenizer.eos_token_id, tokenizer.vocabulary, form, digest, weights


def _vocabulary(tokenizer: Tokenizer) -> VocabularyFacts:
    found = tokenizer.vocabulary_bytes()
    assert found is not None, "only vocabularies with a digest are asked for"
    return found, sorted(tokenizer.marks.values())

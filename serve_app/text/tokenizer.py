"""One model's own tokenizer, with the few methods that serving needs. No tensors."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerFast

from representation.freed_memory import give_back
from representation.tokenizer_files import UnreadableTokenizer, read_tokenizer
from serve_app.text.answers.finding import format_of
from serve_app.text.answers.response_format import ResponseFormat
from serve_app.text.chat_template import ChatTemplate
from serve_app.text.errors import BadResponseTemplate, NoChatTemplate, TextError, TooManyTokens
from serve_app.text.fewest_tokens import FewestTokens
from serve_app.text.pieces import Pieces, readable

_log = logging.getLogger(__name__)
_LONG_TEXT = 1 << 18
"""From so many characters on, the memory that encoding took is given back."""
_MANY_TOKENS = 4096
"""To decode so many at once takes long enough for others to need the interpreter meanwhile."""


class Tokenizer:
    """Encodes, decodes and renders conversations exactly as the model's own tokenizer does."""

    def __init__(self, tokenizer: Any, override: ResponseFormat | None = None) -> None:
        """override: by which answers are parsed; None: by what the model has, or what fits it."""
        self._tokenizer = tokenizer
        self.form = self._found(override)
        self._special = frozenset(cast("list[int]", tokenizer.all_special_ids))
        added = frozenset(cast("dict[int, Any]", tokenizer.added_tokens_decoder))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        described = None if backend is None else json.loads(backend.to_str())
        self._pieces = None if described is None else Pieces(described.get("decoder"), added)
        self._fewest = None
        if described is not None and _is_plain(tokenizer, "__call__", "_encode_plus"):
            self._fewest = FewestTokens.of_json(described)
        self._decode = _decoder(tokenizer)
        self._ids = _encoder(tokenizer)
        self._unread = self._unread_tokens()
        self._cache: dict[int, bytes] = {}

    @classmethod
    def load(cls, directory: Path, override: ResponseFormat | None = None) -> "Tokenizer":
        """Reads the files of one model. Raises TextError if they are not a tokenizer."""
        try:
            return cls(read_tokenizer(directory), override)
        except UnreadableTokenizer as error:
            raise TextError(f"cannot read a tokenizer from {directory.name}: {error}") from error

    @property
    def eos_token_id(self) -> int | None:
        return cast("int | None", self._tokenizer.eos_token_id)

    @property
    def vocabulary(self) -> int:
        """One more than its largest token."""
        return 1 + max(cast("dict[str, int]", self._tokenizer.get_vocab()).values(), default=-1)

    @property
    def marks(self) -> dict[str, int]:
        """Tokens that a grammar must name: special ones, and those that tell its answers apart."""
        words = "" if self.form is None else self.form.words
        added = cast("dict[int, Any]", self._tokenizer.added_tokens_decoder)
        own = {i for i, each in added.items() if each.special or str(each.content) in words}
        return {str(self._tokenizer.convert_ids_to_tokens(i)): i for i in {*own, *self._special}}

    def vocabulary_bytes(self) -> list[bytes] | None:
        """What each token stands for, in order; nothing for those that there are not.

        None if that is not known of single tokens.
        """
        if self._pieces is None:
            return None
        found = [b""] * self.vocabulary
        for symbol, token in cast("dict[str, int]", self._tokenizer.get_vocab()).items():
            found[token] = self._pieces.to_bytes(token, symbol)
        return found

    def vocabulary_digest(self) -> str | None:
        """Equal for tokenizers with equal tokens and marks. None if there are no such bytes."""
        if self._pieces is None:
            return None
        vocabulary = sorted(cast("dict[str, int]", self._tokenizer.get_vocab()).items())
        facts = repr((vocabulary, sorted(self.marks.items()), self._pieces.facts))
        return hashlib.blake2b(facts.encode(errors="replace"), digest_size=16).hexdigest()

    @property
    def weights(self) -> list[float] | None:
        """See `FewestTokens.of_bytes`. None for a kind of tokenizer of which nothing is known."""
        return None if self._fewest is None else self._fewest.of_bytes()

    def encode(self, text: str, *, special: bool = True, most: int | None = None) -> list[int]:
        """`special`: with the tokens that the tokenizer adds by default, such as a first one.

        Raises TooManyTokens for more than `most`; without encoding the text, if that is certain.
        """
        if most is not None and len(text) > most and self._fewest is not None:
            fewest = self._fewest.count(text, most)
            if fewest > most:
                raise TooManyTokens(f"at least {fewest}")
        try:
            ids = self._ids(text, special)
        except (TypeError, UnicodeError, ValueError) as error:
            raise TextError("the text cannot be encoded: it is not valid Unicode") from error
        finally:
            if len(text) >= _LONG_TEXT:
                give_back()
        if most is not None and len(ids) > most:
            raise TooManyTokens(str(len(ids)))
        return ids

    def decode(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        """Returns the text of the tokens as it is, without tidying spaces."""
        return self._decode(list(tokens), skip_special)

    def decode_answer(self, tokens: Sequence[int]) -> str:
        """As `decode`, but with those special tokens that its response format is written in."""
        return self._decode([each for each in tokens if each not in self._unread], False)

    def chat_template(self, *, with_tools: bool = False) -> ChatTemplate:
        """Raises NoChatTemplate; TextError if there are several and none is for all."""
        if self._tokenizer.chat_template is None:
            raise NoChatTemplate("the model has no chat template; use /v1/completions")
        try:
            source = self._tokenizer.get_chat_template(tools=[] if with_tools else None)
        except ValueError as error:
            raise TextError(f"is not one: {error}") from error
        return ChatTemplate(source, self._tokenizer.special_tokens_map)

    def piece(self, token: int) -> bytes:
        """The bytes that `token` stands for; none for an id outside the vocabulary."""
        if token not in self._cache:
            self._cache[token] = self._bytes(token)
        return self._cache[token]

    def readable(self, token: int) -> str:
        """`token` as OpenAI writes it in logprobs."""
        return readable(self.piece(token))

    def _found(self, override: ResponseFormat | None) -> ResponseFormat | None:
        own = getattr(self._tokenizer, "response_template", None)
        written, vocabulary = self._tokenizer.chat_template, self._tokenizer.get_vocab()
        try:
            return format_of(own, override, written, vocabulary)
        except BadResponseTemplate as error:
            _log.warning("a model's own response template is not used: %s", error)
            return format_of(None, None, written, vocabulary)

    def _unread_tokens(self) -> frozenset[int]:
        """Special tokens that mean nothing in an answer of its format."""
        added = cast("dict[int, Any]", self._tokenizer.added_tokens_decoder)
        special = self._special.union(token for token, each in added.items() if each.special)
        words = "" if self.form is None else self.form.words
        texts = {token: str(self._tokenizer.convert_ids_to_tokens(token)) for token in special}
        return frozenset(token for token, text in texts.items() if text not in words)

    def _bytes(self, token: int) -> bytes:
        symbol = cast("str | None", self._tokenizer.convert_ids_to_tokens(token))
        if symbol is None:
            return b""
        if self._pieces is None:
            return self.decode([token], skip_special=False).encode()
        return self._pieces.to_bytes(token, symbol)


def _is_plain(tokenizer: Any, *methods: str) -> bool:
    """Whether it does no more in these than the library below it."""
    kind = type(tokenizer)
    return isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(kind, name) is getattr(PreTrainedTokenizerFast, name) for name in methods
    )


def _encoder(tokenizer: Any) -> Callable[[str, bool], list[int]]:
    """From a text, and whether special tokens are added, to tokens.

    transformers' own call finds where in the text each token is, which takes twice the time. The
    library below can leave that out, and lets others have the interpreter.
    """
    tokenizer("warm")  # the first call may change the backend's truncation; later ones do not
    if not _is_plain(tokenizer, "__call__", "_encode_plus"):
        return lambda text, special: tokenizer(text, add_special_tokens=special)["input_ids"]
    backend = tokenizer.backend_tokenizer

    def encode(text: str, special: bool) -> list[int]:
        [encoded] = backend.encode_batch_fast([text], add_special_tokens=special)
        return cast("list[int]", encoded.ids)

    return encode


def _decoder(tokenizer: Any) -> Callable[[list[int], bool], str]:
    """From tokens, and whether special ones are left out, to their text, spaces untidied.

    transformers' own `decode` converts its arguments, which takes as long as decoding. So that of
    the library below is called, unless the tokenizer's class has its own. It keeps the interpreter,
    which that for several lists does not.
    """
    if not _is_plain(tokenizer, "decode", "_decode"):
        return lambda tokens, skip: cast(
            str,
            tokenizer.decode(tokens, skip_special_tokens=skip, clean_up_tokenization_spaces=False),
        )
    backend = tokenizer.backend_tokenizer

    def decode(tokens: list[int], skip: bool) -> str:
        if len(tokens) < _MANY_TOKENS:
            return cast(str, backend.decode(tokens, skip_special_tokens=skip))
        return cast(str, backend.decode_batch([tokens], skip_special_tokens=skip)[0])

    return decode

"""The tokens of one tokenizer as llguidance knows them. Compiles grammars for them."""

from collections.abc import Callable, Collection, Sequence

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from serve_app.errors import BadGrammar
from serve_app.grammar.sources import explained, source_of

_END = b"[end of the answer]"
"""The token behind the last one: allowed where a grammar accepts, it stands for all stops."""


class _Tokens:
    """What llguidance asks of a tokenizer. It never asks for a text's tokens: see `sources`."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Collection[int]) -> None:
        self.tokens = [*tokens, _END]
        self.eos_token_id = len(tokens)
        self.special_token_ids = [*sorted(special), len(tokens)]

    def __call__(self, text: str | bytes) -> list[int]:
        del text
        return []


class Vocabulary:
    """tokens: the bytes of each; none for one that an answer never has.

    special: those that a grammar must name, as their bytes are no text.

    Making one holds the interpreter twice, as nothing of llguidance can do it elsewhere: 65 ms for
    32,000 tokens and 0.4 s for 151,000, then as long for what makes masks of long texts quick.
    Others have it between.
    """

    def __init__(self, tokens: Sequence[bytes], special: Collection[int]) -> None:
        self.size = len(tokens)
        plain = LLTokenizer(TokenizerWrapper(_Tokens(tokens, special)), slices=[])
        self._tokenizer = plain.with_slices(LLTokenizer.general_slices())

    @property
    def num_words(self) -> int:
        """Of 32 bits, in one mask. The bit behind the last token is that of the end."""
        return (self.size + 32) // 32

    def compile(self, source: str) -> "Grammar":
        """Leaves the interpreter to other threads. Raises BadGrammar."""
        matcher = LLMatcher(self._tokenizer, source, log_level=0)
        if matcher.is_error():
            raise BadGrammar(" ".join(matcher.get_error().split()))
        return Grammar(self, matcher.deep_copy)


class Grammar:
    """One that is compiled. May be used for any number of answers, from any thread."""

    def __init__(self, vocabulary: Vocabulary, copied: Callable[[], LLMatcher]) -> None:
        self.vocabulary = vocabulary
        self.matcher = copied


def checked_source(kind: str, value: object) -> str:
    """See `source_of`. Raises BadGrammar also for what does not compile with bytes for tokens.

    Takes what time and memory it takes.
    """
    source = source_of(kind, value)
    matcher = LLMatcher(LLTokenizer("byte"), source, log_level=0)
    if matcher.is_error():
        raise BadGrammar(explained(matcher.get_error(), kind, value))
    return source

"""What a replica tells its text process, and what it hears. Plain values that `marshal` carries."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from serve_app.protocol.messages import Constraint, Conversation, Piece
from serve_app.text.choice_facts import Past, TokenLogprob, Wanted

PromptEvent = tuple[int, int, Sequence[TokenLogprob | None] | None]
"""The key of a choice whose prompt is echoed, how many more of its tokens, and their
log-probabilities, if they were asked."""
TokenEvent = tuple[int, int, TokenLogprob | None, str | None]
"""The key of a choice, a token (negative: none), its log-probability, why the engine ends it."""
AskedQuestion = tuple[int, str, bytes]
"""A number, the lane in which questions wait for each other, and the question packed by itself."""
Said = tuple[int, Piece | None]
"""The answer to one event of a choice; None if the text process failed, which ends the choice."""
TokenizerFacts = tuple[int | None, int, str | None, str | None, list[float] | None]
"""The end token of a tokenizer, or None; one more than its largest token; the name of the response
format of its model, or None; a digest of its vocabulary, or None if grammars cannot be followed; at
least how many tokens a byte of a text stands for, or None (see `FewestTokens.of_bytes`)."""
VocabularyFacts = tuple[Sequence[bytes], Sequence[int]]
"""The bytes of each token, and those tokens that grammars must name."""
Failure = tuple[str, str]
"""The name of an error class of `serve_app.text.errors`, and its text."""


class TokenizerFiles(TypedDict):
    """directories: of tokenizers, by model.   response_template: the operator's, for all."""

    directories: Mapping[str, str]
    response_template: Any


class Opening(TypedDict):
    """A choice. `prompt`: all of it if it is echoed, else its end. `past`: None for a new one."""

    key: int
    release: str
    model: str
    number: int
    prompt: Sequence[int]
    wanted: Wanted
    past: Past | None


class Turn(TypedDict):
    """What is new since the turn before, mostly the outcome of one step. Taken in this order.

    releases: to be read before anything else.
    closed: choices that nobody waits for.   questions: see `AskedQuestion`.
    """

    releases: Mapping[str, TokenizerFiles]
    opened: list[Opening]
    prompts: list[PromptEvent]
    tokens: list[TokenEvent]
    closed: list[int]
    questions: list[AskedQuestion]


class EncodeQuestion(TypedDict):
    """special: with the tokens that the tokenizer adds by default.   most: tokens that a text may
    have. Answer: tokens of each text.
    """

    ask: Literal["encode"]
    release: str
    model: str
    texts: Sequence[str]
    special: bool
    most: int


class ChatQuestion(TypedDict):
    """most: tokens that the conversation may have. Answer: its tokens, and what of the answer they
    have already; None for that if answers are not parsed.
    """

    ask: Literal["chat"]
    release: str
    model: str
    chat: Conversation
    most: int


class DecodeQuestion(TypedDict):
    """Answer: the text of the tokens, special ones included."""

    ask: Literal["decode"]
    release: str
    model: str
    tokens: Sequence[int]


class GrammarQuestion(TypedDict):
    """begun: what of a chat's answer the prompt has. Answer: a grammar of all that the model may
    write; None if nothing is to be obeyed, or the model's format does not let it be.
    """

    ask: Literal["grammar"]
    release: str
    model: str
    constraint: Constraint | None
    chat: Conversation | None
    begun: str | None


class VocabularyQuestion(TypedDict):
    """Answer: `VocabularyFacts`."""

    ask: Literal["vocabulary"]
    release: str
    model: str


class LoadQuestion(TypedDict):
    """Answer: of each model, `TokenizerFacts`."""

    ask: Literal["load"]
    release: str
    files: TokenizerFiles


class DropQuestion(TypedDict):
    """Answer: nothing, even if the release is not there."""

    ask: Literal["drop"]
    release: str


Question = (
    EncodeQuestion
    | ChatQuestion
    | DecodeQuestion
    | GrammarQuestion
    | VocabularyQuestion
    | LoadQuestion
    | DropQuestion
)


class Reply(TypedDict):
    """The answer to the question of that number, or why there is none."""

    number: int
    answer: Any
    failure: Failure | None


class Answer(TypedDict):
    """said: the answer to one turn, or None if this is a reply alone."""

    said: list[Said] | None
    reply: Reply | None


def empty_turn() -> Turn:
    return {
        "releases": {},
        "opened": [],
        "prompts": [],
        "tokens": [],
        "closed": [],
        "questions": [],
    }


def failed(number: int, error: Exception) -> Reply:
    """error: of a class in `serve_app.text.errors`."""
    return {"number": number, "answer": None, "failure": (type(error).__name__, str(error))}

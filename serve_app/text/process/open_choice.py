"""What the replica knows of a choice whose text is made elsewhere, so that it can be made again."""

from collections import deque
from collections.abc import Callable, Sequence

from serve_app.protocol.messages import Piece
from serve_app.text.choice_facts import Past, TokenLogprob, Wanted
from serve_app.text.detokenize import CONTEXT
from serve_app.text.process.text_messages import Opening, PromptEvent, TokenEvent

Receive = Callable[[Piece | Exception], None]
PROMPT_PART = 256
"""Tokens of a prompt whose text is made at once, in some milliseconds. Others go between."""


class OpenChoice:
    """All that was told of a choice: what has been answered, and what has not.

    The prompt goes part by part, each when the one before is answered, and tokens after it. Every
    event has one answer, in order. So what a process that takes over must be told, and what
    it must say again, follows from the number of answers.
    """

    __slots__ = (
        "_answered",
        "_echoed",
        "_key",
        "_model",
        "_number",
        "_prompt",
        "_prompt_logprobs",
        "_receive",
        "_release",
        "_to_echo",
        "_unshown",
        "_wanted",
        "tokens",
    )

    def __init__(
        self,
        key: int,
        of: tuple[str, str],
        number: int,
        prompt: Sequence[int],
        wanted: Wanted,
        receive: Receive,
    ) -> None:
        """of: release and model.   receive: called with every piece, or why there are no more."""
        self._key = key
        self._release, self._model = of
        self._number = number
        self._prompt = prompt if wanted["echo"] else prompt[-CONTEXT:]
        self._wanted = wanted
        self._receive = receive
        self._to_echo = self._echoed = 0
        self._prompt_logprobs: Sequence[TokenLogprob | None] | None = None
        self._answered: list[int] = []
        self._unshown: deque[TokenLogprob | None] = deque()
        self.tokens: deque[TokenEvent] = deque()

    def opening(self) -> Opening:
        """For a process that does not know it."""
        past: Past = {
            "prompt": self._echoed,
            "tokens": self._answered,
            "logprobs": tuple(self._unshown),
        }
        return {
            "key": self._key,
            "release": self._release,
            "model": self._model,
            "number": self._number,
            "prompt": self._prompt,
            "wanted": self._wanted,
            "past": past if self._echoed or self._answered else None,
        }

    @property
    def is_echoed(self) -> bool:
        """Whether all of the prompt was told that is to be told."""
        return self._echoed == self._to_echo

    def echo(self, logprobs: Sequence[TokenLogprob | None] | None) -> None:
        """The prompt is to be told, with its log-probabilities, if there are any."""
        self._to_echo = len(self._prompt)
        self._prompt_logprobs = logprobs

    def prompt_event(self) -> PromptEvent | None:
        """The next part of the prompt; None if nothing of it is left."""
        begin, end = self._echoed, min(self._echoed + PROMPT_PART, self._to_echo)
        if begin == end:
            return None
        logprobs = self._prompt_logprobs
        return self._key, end - begin, None if logprobs is None else list(logprobs[begin:end])

    def receive(self, piece: Piece) -> None:
        """The answer to the first event that has none."""
        event = None if self.is_echoed else self.prompt_event()
        if event is not None:
            _, num, logprobs = event
            self._echoed += num
            self._unshown.extend(logprobs or ())
        else:
            _, token, logprob, _ = self.tokens.popleft()
            self._answered.append(token)
            if logprob is not None:
                self._unshown.append(logprob)
        for _ in piece["tokens"]:
            self._unshown.popleft()
        if self.is_echoed:
            self._prompt_logprobs = None
        self._receive(piece)

    def fail(self, error: Exception) -> None:
        """There are no more pieces."""
        self._receive(error)

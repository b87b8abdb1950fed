"""What the replica knows of a choice whose text is made elsewhere, so that it can be made again."""

from collections import deque
from collections.abc import Callable, Sequence

from serve_app.protocol.messages import Piece
from serve_app.text.choice_facts import Past, TokenLogprob, Wanted
from serve_app.text.detokenize import CONTEXT
from serve_app.text.process.text_messages import Opening, PromptEvent, TokenEvent

Receive = Callable[[Piece | Exception], None]


class OpenChoice:
    """All that was told of a choice: what has been answered, and what has not.

    Every event has one answer, in order. So what a process that takes over must be told, and what
    it must say again, follows from the number of answers.
    """

    __slots__ = (
        "_answered",
        "_key",
        "_model",
        "_number",
        "_prompt",
        "_prompt_answered",
        "_receive",
        "_release",
        "_unshown",
        "_wanted",
        "prompt_event",
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
        self._prompt_answered = False
        self._answered: list[int] = []
        self._unshown: deque[TokenLogprob] = deque()
        self.prompt_event: PromptEvent | None = None
        self.tokens: deque[TokenEvent] = deque()

    def opening(self) -> Opening:
        """For a process that does not know it."""
        past: Past = {
            "prompt": self._prompt_answered,
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
            "past": past if self._prompt_answered or self._answered else None,
        }

    def receive(self, piece: Piece) -> None:
        """The answer to the first event that has none."""
        if self.prompt_event is not None:
            self.prompt_event = None
            self._prompt_answered = True
        else:
            _, token, logprob, _ = self.tokens.popleft()
            self._answered.append(token)
            if logprob is not None:
                self._unshown.append(logprob)
                for _ in piece["tokens"]:
                    self._unshown.popleft()
        self._receive(piece)

    def fail(self, error: Exception) -> None:
        """There are no more pieces."""
        self._receive(error)

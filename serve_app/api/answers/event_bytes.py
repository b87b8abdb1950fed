"""Gathers the server-sent events of one answer, as bytes. Waits for nothing, sends nothing."""

from collections.abc import Sequence

from serve_app.api.answers.answer import AnswerEvents, AnswerFormat, Head, Usage
from serve_app.protocol.errors import ProtocolError, internal
from serve_app.protocol.messages import Item


class Events:
    """The events of one answer, until it has ended or an error happens midway.

    Those of the last pieces are kept until `end`, to be one write with it.
    """

    def __init__(self, form: AnswerFormat, head: Head, usage: Usage, choices: int) -> None:
        self._events: AnswerEvents = form.events(head, usage, choices)
        self._usage = usage
        self._unfinished = choices
        self._kept: list[str] = []
        self._error: ProtocolError | None = None

    @property
    def have_ended(self) -> bool:
        """Whether an error has ended them; only `end` is left."""
        return self._error is not None

    def opening(self) -> bytes:
        """What comes before any text; may be nothing."""
        return self._events.opening().encode()

    def add(self, items: Sequence[Item]) -> bytes:
        """What is to be written now; may be nothing."""
        written, write, count = self._kept, self._events.piece, self._usage.add
        for item in items:
            if item["type"] == "piece":
                count(item)
                self._unfinished -= item["finish"] is not None
                written.append(write(item))
            elif item["type"] == "error":
                self._error = ProtocolError.of_item(item)
                break
        if not self._unfinished or self._error is not None:
            return b""
        self._kept = []
        return "".join(written).encode()

    def fail(self) -> None:
        """Something else has broken: they end with an internal error."""
        self._error = internal()

    def end(self) -> bytes:
        """What is written last."""
        error = self._error
        if error is None and self._unfinished:
            error = internal()
        last = self._events.ended() if error is None else self._events.failed(error)
        return "".join([*self._kept, last]).encode()

"""One job in the engine: submits its choices, yields their pieces, aborts what is left.

The text process makes the pieces. Of a choice's text, this knows only that it has ended.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import overload

from serve_app.engine.request import Event, Failed, Logprob, PromptLogprobs, Request
from serve_app.errors import (
    DeadlineMissed,
    EngineError,
    EngineStopped,
    GrammarLost,
    TooLong,
    Unavailable,
    UnknownModel,
)
from serve_app.protocol.errors import (
    ProtocolError,
    bad_request,
    deadline_exceeded,
    internal,
    loading,
    no_such_model,
)
from serve_app.protocol.messages import Item, Job, Piece
from serve_app.serving.metrics.counting import RequestMetrics
from serve_app.serving.replica.dependencies import Loop
from serve_app.serving.replica.post import Post, outcome
from serve_app.serving.replica.prepare import ServedModel, context_exceeded, param_of
from serve_app.serving.transport.pending import Pending
from serve_app.text.choice_facts import TokenLogprob, Wanted, WantedAnswer
from serve_app.text.errors import TextUnavailable
from serve_app.text.process.text_client import TextClient


@dataclass(slots=True)
class _Running:
    """A choice that has not ended. key: of its text.   steps: whether the engine still has it.

    queued_s, num_cached: of its first token, until there is the piece.
    """

    key: int
    steps: bool
    queued_s: float | None = None
    num_cached: int = 0


class Generation:
    """The choices of one job. `requests` are in the order of the choices' numbers. `answer`: how
    each is told apart.
    """

    def __init__(
        self,
        job: Job,
        model: ServedModel,
        requests: Sequence[Request],
        answer: WantedAnswer | None,
        loop: Loop,
        post: Post,
        text: TextClient,
        *,
        metrics: RequestMetrics,
        clock: Callable[[], float],
        begun: float,
    ) -> None:
        self._job = job
        self._model = model
        self._requests = requests
        self._answer = answer
        self._loop = loop
        self._post = post
        self._text = text
        self._metrics = metrics
        self._clock = clock
        self._begun = begun
        self._running: dict[str, _Running] = {}
        self._pieces = Pending[Piece | Exception]()

    async def run(self) -> AsyncGenerator[list[Item], None]:
        """`Accepted` first, then pieces until every choice has ended.

        Raises ProtocolError, before the first item if the engine refuses. However it ends, nothing
        of the job stays in the engine or in the text process.
        """
        try:
            self._open()
            await self._submit([each for each in self._requests if _needs_engine(each)])
            prompts = [len(request.prompt) for request in self._requests[:: self._job["n"]]]
            self._metrics.accepted(sum(prompts))
            yield [
                {
                    "type": "accepted",
                    "model": self._model.name,
                    "release": self._model.release,
                    "prompt_tokens": prompts,
                    "answer_tokens": sum(request.max_tokens for request in self._requests),
                }
            ]
            for choice in self._running.values():
                if not choice.steps:
                    self._text.add(choice.key, -1, None, "length")
            while self._running:
                items = self._items(await self._pieces.take())
                if items:
                    yield items
            self._metrics.ended(self._begun, self._clock())
        finally:
            for name, choice in sorted(self._running.items()):
                self._end(name, choice)

    def _open(self) -> None:
        """The texts of all choices, with the prompts whose echoes need no step."""
        wanted: Wanted = {
            "echo": self._job["echo"],
            "logprobs": self._job["logprobs"],
            "stop": self._job["stop"],
            "min_tokens": self._job["min_tokens"],
            "skip_special_tokens": self._job["skip_special_tokens"],
            "answer": self._answer,
        }
        for number, request in enumerate(self._requests):
            before = request.prompt if self._model.goes_on else ()
            key = self._text.open(self._model.key, number, before, wanted, self._receive)
            self._running[request.id] = _Running(key, steps=False)
            if self._job["echo"] and request.prompt_logprobs is None:
                self._text.echo(key, None)

    async def _submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._running[request.id].steps = True
        try:
            if requests:
                await self._submit_within(requests)
        except TooLong as error:
            numbers = error.limit, error.prompt_tokens, error.max_tokens
            raise context_exceeded(*numbers, param_of(self._job)) from error
        except UnknownModel as error:
            raise no_such_model(self._job["model"]) from error
        except EngineError as error:
            raise self._told(error) from error

    async def _submit_within(self, requests: Sequence[Request]) -> None:
        """Answers without a length get the room that is left."""
        on_event = self._post.to(self._hear)
        try:
            await outcome(self._loop.submit_all(requests, on_event))
        except TooLong as error:
            if self._job["max_tokens"] is not None:
                raise
            shorter = [_within(request, error.limit) for request in requests]
            if shorter == list(requests) or any(request.max_tokens < 1 for request in shorter):
                raise
            await outcome(self._loop.submit_all(shorter, on_event))

    def _hear(self, event: Event) -> None:
        """What the engine says of one choice goes to its text."""
        choice = self._running.get(event.request)
        if choice is None:
            return  # comes too late: a stop string has ended this choice
        if isinstance(event, Failed):
            self._receive(event.error)
        elif isinstance(event, PromptLogprobs):
            self._text.echo(choice.key, _PromptFacts(event.logprobs))
        else:
            if event.queued_s is not None:
                choice.queued_s, choice.num_cached = event.queued_s, event.num_cached
            choice.steps = event.finish is None
            self._text.add(choice.key, event.token, _facts(event.logprob), event.finish)

    def _receive(self, piece: Piece | Exception) -> None:
        self._pieces.put([piece])

    def _told(self, error: Exception) -> ProtocolError:
        """What a client hears of a failure."""
        if isinstance(error, Unavailable):
            return unavailable(self._job["model"], error)
        return protocol_error(error)

    def _items(self, pieces: Sequence[Piece | Exception]) -> list[Item]:
        items: list[Item] = []
        for piece in pieces:
            if isinstance(piece, Exception):
                raise self._told(piece) from piece
            name = self._requests[piece["choice"]].id
            self._count(piece, self._running[name])
            if piece["finish"] is not None:
                self._end(name, self._running.pop(name))
            if _says_something(piece):
                items.append(piece)
        return items

    def _count(self, piece: Piece, choice: _Running) -> None:
        if piece["num_tokens"]:
            if piece["choice"] % self._job["n"] == 0:
                piece["num_cached"] = choice.num_cached
            if choice.queued_s is not None:
                piece["queued_s"] = choice.queued_s
            self._metrics.token(piece["choice"], self._begun, self._clock(), choice.queued_s)
            choice.queued_s, choice.num_cached = None, 0
        if piece["finish"] is not None:
            self._metrics.finished(piece["choice"], piece["finish"])

    def _end(self, name: str, choice: _Running) -> None:
        """Leaves nothing of the choice anywhere."""
        self._text.close(choice.key)
        if choice.steps:
            self._loop.abort(name)


def unavailable(model: str, error: Unavailable) -> ProtocolError:
    """What a client hears of a model that cannot be loaded. model: as it was asked for."""
    why = f"the model '{model}' cannot be loaded at the moment"
    return ProtocolError("loading", why, retry_after_s=max(1.0, error.retry_after_s))


def protocol_error(error: Exception) -> ProtocolError:
    """What a client hears of a failure: no details, which are in the log."""
    if isinstance(error, EngineStopped):
        return loading("the engine has stopped and will be restarted")
    if isinstance(error, DeadlineMissed):
        return deadline_exceeded()
    if isinstance(error, GrammarLost):
        return bad_request("the answer could not be held to what it must obey any further")
    if isinstance(error, TextUnavailable):
        return loading("texts cannot be read or written at the moment")
    return internal()


class _PromptFacts(Sequence[TokenLogprob | None]):
    """Of a prompt's tokens, made when they are looked at: there may be many."""

    def __init__(self, logprobs: Sequence[Logprob | None]) -> None:
        self._logprobs = logprobs

    def __len__(self) -> int:
        return len(self._logprobs)

    @overload
    def __getitem__(self, at: int) -> TokenLogprob | None: ...

    @overload
    def __getitem__(self, at: slice) -> list[TokenLogprob | None]: ...

    def __getitem__(self, at: int | slice) -> TokenLogprob | list[TokenLogprob | None] | None:
        if isinstance(at, int):
            return _facts(self._logprobs[at])
        return [_facts(each) for each in self._logprobs[at]]


def _facts(logprob: Logprob | None) -> TokenLogprob | None:
    return None if logprob is None else (logprob.logprob, logprob.top)


def _needs_engine(request: Request) -> bool:
    return request.max_tokens > 0 or request.prompt_logprobs is not None


def _within(request: Request, limit: int) -> Request:
    room = min(request.max_tokens, limit - len(request.prompt))
    return replace(request, max_tokens=room, min_tokens=min(request.min_tokens, max(room, 0)))


def _says_something(piece: Piece) -> bool:
    shows = piece["text"] or piece.get("reasoning") or piece.get("calls") or piece["tokens"]
    return bool(shows or piece["num_tokens"] or piece["finish"] is not None)

"""One job in the engine: submits its choices, yields their pieces, aborts what is left."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from serve_app.engine.request import Event, Failed, PromptLogprobs, Request, Token
from serve_app.errors import EngineError, EngineStopped, TooLong, UnknownModel
from serve_app.protocol.errors import ProtocolError, internal, loading, no_such_model
from serve_app.protocol.messages import Item, Job, Piece
from serve_app.serving.replica.choice import ChoiceText, Wanted
from serve_app.serving.replica.counting import RequestMetrics
from serve_app.serving.replica.dependencies import Loop
from serve_app.serving.replica.futures import outcome
from serve_app.serving.replica.mailbox import Mailbox, Post
from serve_app.serving.replica.prepare import ServedModel, context_exceeded


class Generation:
    """The choices of one job. `requests` are in the order of the choices' numbers."""

    def __init__(
        self,
        job: Job,
        model: ServedModel,
        requests: Sequence[Request],
        loop: Loop,
        post: Post,
        *,
        metrics: RequestMetrics,
        clock: Callable[[], float],
        begun: float,
    ) -> None:
        self._job = job
        self._release = model.release
        self._requests = requests
        self._loop = loop
        self._post = post
        self._metrics = metrics
        self._clock = clock
        self._begun = begun
        wanted = Wanted(
            echo=job["echo"],
            logprobs=job["logprobs"],
            stop=job["stop"],
            min_tokens=job["min_tokens"],
            skip_special_tokens=job["skip_special_tokens"],
        )
        self._texts = {
            request.id: ChoiceText(number, request.prompt, model.tokenizer, wanted)
            for number, request in enumerate(requests)
        }

    async def run(self) -> AsyncGenerator[list[Item], None]:
        """`Accepted` first, then pieces until every choice has ended.

        Raises ProtocolError, before the first item if the engine refuses. However it ends, nothing
        of the job stays in the engine.
        """
        mailbox = self._post.mailbox()
        running: set[str] = set()
        try:
            asked = [request for request in self._requests if _needs_engine(request)]
            if asked:
                running.update(request.id for request in asked)
                await self._submit(asked, mailbox)
            prompts = [len(request.prompt) for request in self._requests[:: self._job["n"]]]
            self._metrics.accepted(sum(prompts))
            yield [{"type": "accepted", "release": self._release, "prompt_tokens": prompts}]
            opening = self._opening(running)
            if opening:
                yield opening
            while running:
                items = self._items(await mailbox.take(), running)
                if items:
                    yield items
            self._metrics.ended(self._begun, self._clock())
        finally:
            for name in sorted(running):
                self._loop.abort(name)

    async def _submit(self, requests: Sequence[Request], mailbox: Mailbox) -> None:
        try:
            await self._submit_within(requests, mailbox)
        except TooLong as error:
            param = "prompt" if self._job["messages"] is None else "messages"
            raise context_exceeded(
                error.limit, error.prompt_tokens, error.max_tokens, param
            ) from error
        except UnknownModel as error:
            raise no_such_model(self._job["model"]) from error
        except EngineError as error:
            raise protocol_error(error) from error

    async def _submit_within(self, requests: Sequence[Request], mailbox: Mailbox) -> None:
        """Answers without a length get the room that is left."""
        try:
            await outcome(self._loop.submit_all(requests, mailbox.put))
        except TooLong as error:
            if self._job["max_tokens"] is not None:
                raise
            shorter = [_within(request, error.limit) for request in requests]
            if shorter == list(requests) or any(request.max_tokens < 1 for request in shorter):
                raise
            await outcome(self._loop.submit_all(shorter, mailbox.put))

    def _opening(self, running: set[str]) -> list[Item]:
        """Echoes that need no step, and choices that end before they begin."""
        items: list[Item] = []
        for request in self._requests:
            if self._job["echo"] and request.prompt_logprobs is None:
                items.append(self._texts[request.id].echo())
            if request.id not in running:
                ended = Token(request.id, -1, None, "length")
                items.append(self._finished(self._texts[request.id].add(ended)))
        return items

    def _items(self, events: Sequence[Event], running: set[str]) -> list[Item]:
        items: list[Item] = []
        for event in events:
            if event.request not in running:
                continue  # comes too late: a stop string has ended this choice
            if isinstance(event, Failed):
                raise protocol_error(event.error) from event.error
            piece = self._piece(event)
            if piece["finish"] is not None:
                running.discard(event.request)
                self._finished(piece)
                if self._texts[event.request].stopped:
                    self._loop.abort(event.request)
            if _says_something(piece):
                items.append(piece)
        return items

    def _piece(self, event: Token | PromptLogprobs) -> Piece:
        text = self._texts[event.request]
        if isinstance(event, PromptLogprobs):
            return text.add_prompt(event)
        piece = text.add(event)
        if piece["choice"] % self._job["n"] == 0:
            piece["num_cached"] = event.num_cached
        if piece["num_tokens"]:
            self._metrics.token(piece["choice"], self._begun, self._clock(), event.queued_s)
        return piece

    def _finished(self, piece: Piece) -> Piece:
        if piece["finish"] is not None:
            self._metrics.finished(piece["choice"], piece["finish"])
        return piece


def protocol_error(error: EngineError) -> ProtocolError:
    """What a client hears of an engine failure: no details, which are in the log."""
    if isinstance(error, EngineStopped):
        return loading("the engine has stopped and will be restarted")
    return internal()


def _needs_engine(request: Request) -> bool:
    return request.max_tokens > 0 or request.prompt_logprobs is not None


def _within(request: Request, limit: int) -> Request:
    room = min(request.max_tokens, limit - len(request.prompt))
    return replace(request, max_tokens=room, min_tokens=min(request.min_tokens, max(room, 0)))


def _says_something(piece: Piece) -> bool:
    return bool(
        piece["text"] or piece["tokens"] or piece["num_tokens"] or piece["finish"] is not None
    )

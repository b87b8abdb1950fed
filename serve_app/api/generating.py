"""Answers requests for text: reads a body, asks the `EngineClient`, formats what comes of it."""

import uuid
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serve_app.api.access import asked_by
from serve_app.api.answers.answer import AnswerFormat, Head
from serve_app.api.answers.event_bytes import Events
from serve_app.api.boundary import REQUEST_ID
from serve_app.api.dialects import Dialect
from serve_app.api.metering import MeteredItems
from serve_app.api.reading import Reader
from serve_app.api.recording import Handler, notes_of
from serve_app.api.requests.deadline import deadline_of
from serve_app.api.requests.jobs import TIERS
from serve_app.api.requests.own_words import told_in
from serve_app.api.streams import EventStream, accepted, collect, unless_gone
from serve_app.config import RequestLimits
from serve_app.protocol.errors import not_allowed
from serve_app.protocol.messages import EngineClient, Job
from serve_app.tenants.keyring import Caller


class Generating:
    """The handlers of all dialects. clock: Unix seconds.   keep_alive_s: see `Api`."""

    def __init__(
        self,
        client: EngineClient,
        limits: RequestLimits,
        reader: Reader,
        clock: Callable[[], float],
        keep_alive_s: float,
    ) -> None:
        self._client = client
        self._limits = limits
        self._reader = reader
        self._clock = clock
        self._keep_alive_s = keep_alive_s

    def answering(self, dialect: Dialect[Any]) -> Handler:
        """The handler of the route that speaks a dialect."""

        async def answer(request: Request) -> Response:
            deadline = deadline_of(request, self._limits.timeout_s)
            fields = await self._reader.fields(request, dialect.fields)
            notes_of(request).model = fields.model
            with told_in(dialect.words):
                job = dialect.job(
                    fields,
                    self._limits,
                    job=f"{dialect.prefix}{uuid.uuid4().hex}",
                    caller=caller_of(request, fields.model),
                    timeout_s=deadline.left_s(),
                )
                job["request"] = request.scope[REQUEST_ID]
                form = dialect.form(fields, job)
                return await self._answer(request, job, form, dialect.keep_alive)

        return answer

    async def _answer(
        self, request: Request, job: Job, form: AnswerFormat, keep_alive: bytes
    ) -> Response:
        """Sends nothing before the engine has accepted the job, so a refusal has its own status."""
        asked = asked_by(request)
        use = await asked.begin()
        items = MeteredItems(self._client.generate(job), asked, use)
        try:
            told = await unless_gone(request.receive, accepted(items))
            tier = TIERS[job["service_class"]]
            head = Head(job["id"], int(self._clock()), job["model"], told["release"], tier)
            counts = await items.accepted(told)
            choices = len(told["prompt_tokens"]) * job["n"]
            notes_of(request).accepted(told, choices, counts)
            if job["streamed"]:
                events = Events(form, head, counts, choices)
                name = request.scope[REQUEST_ID]
                return EventStream(events, items, self._keep_alive_s, keep_alive, name)
            whole = collect(items, form, head, counts, choices)
            body = await unless_gone(request.receive, whole)
        except BaseException:
            await items.aclose()  # whatever ended it, even cancellation: nothing stays running
            raise
        await items.aclose()
        return Response(body, media_type="application/json")


def caller_of(request: Request, model: str) -> Caller:
    """Raises ProtocolError 403 if the caller may not use the model, whether it exists or not."""
    caller = asked_by(request).caller
    if not caller.tenant.may_use(model):
        raise not_allowed(model)
    return caller

"""Records what each request was and cost. Keeps no record: the ingress says where they go."""

from collections.abc import Awaitable, Callable
from time import monotonic

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.api.access import asked_by
from serve_app.api.answers.answer import Usage
from serve_app.api.boundary import ERROR_SHAPE, REQUEST_ID
from serve_app.api.streams import ClientGone
from serve_app.protocol.errors import ProtocolError
from serve_app.protocol.messages import Accepted
from serve_app.tenants.usage_record import UsageRecord, stamp

Handler = Callable[[Request], Awaitable[Response]]
Record = Callable[[UsageRecord], None]
RECORD = "expertpool.record"
"""In the scope: the record of a request that has ended."""
_NOTES = "expertpool.notes"
GONE = 499
"""What nginx logs for a client that has left before its answer began."""
_LONGEST_NAME = 255
"""Characters that are kept of the name of a model, as clients may send names of any length."""


class Notes:
    """What is known of a request so far. usage: once it was accepted, with its tokens."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.answered_by: str | None = None
        self.release: str | None = None
        self.num_choices = 0
        self.usage: Usage | None = None

    def accepted(self, told: Accepted, num_choices: int, usage: Usage) -> None:
        """The engine has taken the request."""
        self.answered_by, self.release = told["model"], told["release"]
        self.num_choices, self.usage = num_choices, usage


def notes_of(request: Request) -> Notes:
    """The notes of a request that is recorded."""
    notes: Notes = request.scope[_NOTES]
    return notes


class Recorded:
    """An ASGI application of one handler, whose requests are recorded when they have ended."""

    def __init__(
        self,
        handler: Handler,
        record: Record,
        clock: Callable[[], float],
    ) -> None:
        self._handler = handler
        self._record = record
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        notes = scope[_NOTES] = Notes()
        time, begun, status = stamp(self._clock()), monotonic(), 500
        try:
            response = await self._handler(request)
            status = response.status_code
            await response(scope, receive, send)
        except ProtocolError as error:
            status = scope[ERROR_SHAPE].statuses[error.code].number
            raise
        except ClientGone:
            status = GONE
            raise
        finally:
            caller = asked_by(request).caller
            record = UsageRecord(
                time=time,
                request=scope[REQUEST_ID],
                tenant=caller.name,
                key=caller.key_id,
                model=None if notes.model is None else notes.model[:_LONGEST_NAME],
                answered_by=notes.answered_by,
                release=notes.release,
                total_s=_milli(monotonic() - begun),
                status=status,
            )
            if notes.usage is not None:
                _add_usage(record, notes.usage, notes.num_choices, begun)
            scope[RECORD] = record
            self._record(record)


def _add_usage(record: UsageRecord, usage: Usage, num_choices: int, begun: float) -> None:
    record.prompt_tokens = usage.num_prompt
    record.cached_tokens = usage.num_cached
    record.answer_tokens = usage.num_answered
    record.queue_s = None if usage.queued_s is None else _milli(usage.queued_s)
    if usage.first_at is not None:
        record.first_token_s = _milli(usage.first_at - begun)
    is_whole = len(usage.finishes) == num_choices
    record.finish = "+".join(sorted(set(usage.finishes))) if is_whole else "incomplete"


def _milli(seconds: float) -> float:
    return round(seconds, 3)

"""The ways to ask for text over HTTP, one value each: which body, which job, which answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from serve_app.api.answers.answer import AnswerFormat
from serve_app.api.answers.chat_answers import ChatFormat
from serve_app.api.answers.completion_answers import CompletionFormat
from serve_app.api.anthropic.anthropic_errors import MESSAGES
from serve_app.api.anthropic.as_chats import OWN_WORDS as MESSAGE_WORDS
from serve_app.api.anthropic.as_chats import message_job
from serve_app.api.anthropic.message_answers import PING, MessageFormat
from serve_app.api.anthropic.message_fields import MessageFields
from serve_app.api.quiet_body import KEEP_ALIVE
from serve_app.api.requests.fields import ChatFields, CompletionFields, ModelFields
from serve_app.api.requests.jobs import chat_job, completion_job
from serve_app.api.requests.own_words import Words
from serve_app.api.responses.response_answers import ResponseAnswer
from serve_app.api.responses.response_body import ResponseBody
from serve_app.api.responses.response_fields import ResponseFields
from serve_app.api.responses.response_job import OWN_WORDS as RESPONSE_WORDS
from serve_app.api.responses.response_job import response_job
from serve_app.config import RequestLimits
from serve_app.protocol.messages import Job
from serve_app.tenants.keyring import Caller

_Fields = TypeVar("_Fields", bound=ModelFields)
_Taken = TypeVar("_Taken", bound=ModelFields, contravariant=True)


class MakesJob(Protocol[_Taken]):
    """Raises ProtocolError 400 where a cap is exceeded, 403 where the class is above the key's."""

    def __call__(
        self,
        fields: _Taken,
        limits: RequestLimits,
        *,
        job: str,
        caller: Caller,
        timeout_s: float | None,
    ) -> Job: ...


@dataclass(frozen=True, slots=True)
class Dialect(Generic[_Fields]):
    """fields: of a body.   prefix: of the ids of answers.   form: of the answer to a job.

    keep_alive: what a stream says while it has nothing else to say.
    words: those in which the job is refused.
    """

    fields: type[_Fields]
    prefix: str
    job: MakesJob[_Fields]
    form: Callable[[_Fields, Job], AnswerFormat]
    keep_alive: bytes = KEEP_ALIVE
    words: Words = field(default_factory=dict)


def _completion(fields: CompletionFields, job: Job) -> CompletionFormat:
    return CompletionFormat(
        logprobs=job["logprobs"] is not None, include_usage=fields.include_usage
    )


def _chat(fields: ChatFields, job: Job) -> ChatFormat:
    logprobs = job["logprobs"] is not None
    return ChatFormat(
        job["id"],
        logprobs=logprobs,
        include_usage=fields.include_usage,
        has_functions=bool(fields.functions),
    )


def _message(fields: MessageFields, job: Job) -> MessageFormat:
    thinking = fields.thinking
    shows_thinking = thinking is None or thinking.display != "omitted"
    return MessageFormat(job["id"], shows_thinking=shows_thinking)


def _response(fields: ResponseFields, job: Job) -> ResponseAnswer:
    return ResponseAnswer(ResponseBody(fields, logprobs=job["logprobs"] is not None))


DIALECTS: Mapping[str, Dialect[Any]] = {
    "/v1/completions": Dialect(CompletionFields, "cmpl-", completion_job, _completion),
    "/v1/chat/completions": Dialect(ChatFields, "chatcmpl-", chat_job, _chat),
    MESSAGES: Dialect(MessageFields, "msg_", message_job, _message, PING, MESSAGE_WORDS),
    "/v1/responses": Dialect(
        ResponseFields, "resp_", response_job, _response, words=RESPONSE_WORDS
    ),
}
"""By path."""

"""One request through the openai client, and how it ended. Knows no fault."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import openai

from tests.chaos.ledger import Kind, Outcome
from tests.chaos.references import Prompt, References, readable, text_of

TIMEOUT_S = 60.0
"""A client's patience with one request; the machine may be shared."""


@dataclass(frozen=True, slots=True)
class Question:
    """A greedy request for exactly `length` tokens. model: or an alias."""

    model: str
    prompt: Prompt
    length: int
    streamed: bool
    logprobs: bool
    user: str = ""


@dataclass(slots=True)
class Heard:
    """What has come of an answer so far. tokens: as log-probabilities show them, if they do."""

    text: str = ""
    tokens: list[str] = field(default_factory=list)
    finish: str | None = None
    release: str | None = None
    count: int | None = None


async def ask(client: openai.AsyncOpenAI, question: Question, references: References) -> Outcome:
    begun, heard = time.monotonic(), Heard()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await _hear(client, question, heard)
        kind, said = _judge(question, heard, references, whole=True)
    except (TimeoutError, openai.APITimeoutError):
        kind, said = Kind.HUNG, f"after {len(heard.text)} characters"
    except openai.APIStatusError as error:
        kind, said = judge_status(error)
    except openai.APIConnectionError as error:
        unopened = "ConnectError" in type(error.__cause__).__name__
        kind, said = (Kind.REFUSED, "no connection") if unopened else (Kind.CUT, _cause(error))
    except openai.APIError as error:
        kind, said = _judge_event(error)
    if kind not in (Kind.RIGHT, Kind.WRONG) and heard.text:
        verdict, why = _judge(question, heard, references, whole=False)
        if verdict is Kind.WRONG:
            kind, said = verdict, why
    return Outcome(kind, question.model, begun, time.monotonic(), said, heard.release)


def judge_status(error: openai.APIStatusError) -> tuple[Kind, str]:
    """Whether an error is one of OpenAI's form, with Retry-After where a client should retry."""
    body = error.body
    if not isinstance(body, Mapping) or not {"message", "type", "code"} <= set(body):
        return Kind.MALFORMED, f"{error.status_code}: {error.response.text[:200]}"
    retries = error.status_code in (429, 503)
    if retries and not error.response.headers.get("retry-after", "").isdigit():
        return Kind.MALFORMED, f"{error.status_code} {body['code']} without Retry-After"
    return Kind.REFUSED, f"{error.status_code} {body['code']}"


def _judge_event(error: openai.APIError) -> tuple[Kind, str]:
    body = error.body
    if not isinstance(body, Mapping) or not {"message", "type", "code"} <= set(body):
        return Kind.MALFORMED, f"event: {body}"
    return Kind.ENDED, str(body["code"])


def _cause(error: openai.APIConnectionError) -> str:
    return type(error.__cause__).__name__


def _judge(
    question: Question, heard: Heard, references: References, *, whole: bool
) -> tuple[Kind, str]:
    """An answer against its reference; not `whole`: the beginning of one."""
    if whole and heard.finish is None:
        return Kind.LOST, f"after {len(heard.text)} characters"
    length = question.length
    tokens = references.tokens(heard.release or "", question.model, question.prompt, length)
    if tokens is None:
        return Kind.WRONG, f"release {heard.release} is unknown"
    text, shown = text_of(question.prompt, tokens), readable(tokens)
    if not whole:
        begins = text.startswith(heard.text) and shown[: len(heard.tokens)] == heard.tokens
        return (Kind.RIGHT, "") if begins else (Kind.WRONG, _differ(heard.text, text))
    if heard.text != text:
        return Kind.WRONG, _differ(heard.text, text)
    if question.logprobs and heard.tokens != shown:
        return Kind.WRONG, f"tokens {heard.tokens} instead of {shown}"
    if heard.count != length:
        return Kind.WRONG, f"usage counts {heard.count} tokens instead of {length}"
    return Kind.RIGHT, ""


def _differ(found: str, expected: str) -> str:
    return f"{found!r} instead of {expected!r}"


async def _hear(client: openai.AsyncOpenAI, question: Question, heard: Heard) -> None:
    fields: dict[str, Any] = {
        "model": question.model,
        "max_tokens": question.length,
        "temperature": 0,
        "stream": question.streamed,
        "user": question.user,
        "extra_body": {"ignore_eos": True},
    }
    if question.streamed:
        fields["stream_options"] = {"include_usage": True}
    create: Any
    if question.prompt.is_chat:
        create = client.chat.completions.create
        fields["messages"] = question.prompt.messages
        fields["logprobs"] = question.logprobs
    else:
        create = client.completions.create
        fields["prompt"] = question.prompt.text
        if question.logprobs:
            fields["logprobs"] = 0
    answer = await create(**fields)
    if not question.streamed:
        _note(answer, heard)
        return
    async for chunk in answer:
        _note(chunk, heard)


def _note(part: Any, heard: Heard) -> None:
    """A chunk, or an answer as a whole."""
    heard.release = part.system_fingerprint
    if part.usage is not None:
        heard.count = part.usage.completion_tokens
    for choice in part.choices:
        message = getattr(choice, "delta", None) or getattr(choice, "message", None)
        heard.text += (choice.text if message is None else message.content) or ""
        heard.finish = choice.finish_reason or heard.finish
        if choice.logprobs is not None:
            content = getattr(choice.logprobs, "content", None)
            own = getattr(choice.logprobs, "tokens", None)
            heard.tokens += own or [token.token for token in content or []]

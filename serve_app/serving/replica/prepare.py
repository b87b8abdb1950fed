"""Turns a job into engine requests: tokens, lengths, seeds, stops. Asks the text process."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from serve_app.engine.request import Request
from serve_app.errors import BadGrammar, BadParameters
from serve_app.grammar.compiling import Compiler
from serve_app.grammar.vocabulary import Grammar, Vocabulary
from serve_app.protocol.errors import (
    ProtocolError,
    bad_request,
    deadline_exceeded,
    too_long,
    unsupported,
)
from serve_app.protocol.messages import (
    Conversation,
    DetokenizeJob,
    Job,
    ModelKind,
    TokenizeJob,
)
from serve_app.protocol.token_ids import num_tokens, unpacked
from serve_app.serving.replica.defaults import ModelDefaults, choice_seed
from serve_app.serving.replica.going_on import refuse_going_on
from serve_app.text.choice_facts import WantedAnswer
from serve_app.text.errors import (
    BadVariable,
    NoForcedCalls,
    NoToolCalls,
    TextError,
    TooManyTokens,
)
from serve_app.text.process.text_client import TextClient


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of a served release. vocabulary: rows of its embedding.   longest_prompt: less than
    the context where one step must compute it.   response_template: what its answers are parsed by,
    by name.   tokens: None if its answers can be held to no grammar.   weights: see `Models`; None
    if they are not known.
    """

    name: str
    release: str
    kind: ModelKind
    defaults: ModelDefaults
    vocabulary: int
    context_length: int
    longest_prompt: int
    response_template: str | None
    tokens: Vocabulary | None = None
    weights: Sequence[float] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """By what the text process knows it."""
        return self.release, self.name

    @property
    def goes_on(self) -> bool:
        """Whether its answer is what comes after the prompt, and not what an encoder made of it."""
        return self.kind == "decoder"


async def encode_prompts(
    job: Job, model: ServedModel, text: TextClient, cap: int | None
) -> tuple[list[list[int]], WantedAnswer | None]:
    """The prompts as tokens, and how answers are told apart. cap: the operator's longest prompt.

    Raises ProtocolError for what the model's kind cannot do, for invalid text and tokens, and for a
    prompt that is too long, if possible before it is looked at.
    """
    if not model.goes_on:
        refuse_going_on(job, model.name)
    answer, chat, param = None, job["chat"], param_of(job)
    longest = [cap, job["prompt_limit"], model.longest_prompt]
    most = min(each for each in longest if each is not None)
    try:
        with refusing_texts(param):
            if chat is not None:
                tokens, begun = await text.encode_chat(model.key, chat, most=most)
                prompts = [tokens]
                is_plain = job["constraint"] is not None
                begun = begun if model.goes_on or begun is None else ""
                answer = None if begun is None else _answer(chat, begun, is_plain)
            else:
                prompts = await _encoded(job["prompts"], model, text, most)
    except TooManyTokens as error:
        raise too_long(_too_many(str(error), most, job, cap, model), param) from error
    for prompt in prompts:
        _check_tokens(prompt, model, param)
        if not prompt:
            raise bad_request(f"Invalid '{param}': it has no tokens", param)
    _check_tokens(job["stop_token_ids"], model, "stop_token_ids")
    _check_tokens(list(job["logit_bias"]), model, "logit_bias")
    return prompts, answer


def param_of(job: Job | TokenizeJob) -> str:
    """The field that a prompt is in."""
    return "prompt" if job["chat"] is None else "messages"


def _too_many(words: str, most: int, job: Job, cap: int | None, model: ServedModel) -> str:
    """words: how many tokens the prompt has.   By `prompt is too long`, LangChain knows it."""
    for each, whom in ((cap, "here"), (job["prompt_limit"], "from this tenant")):
        if each == most:
            return f"The prompt has {words} tokens; at most {most} are accepted {whom}"
    limit = f"This model's maximum context length is {most} tokens"
    if most < model.context_length:
        limit = f"This model computes a prompt in one step, of at most {most} tokens"
    return f"{limit}. However, the {param_of(job)} has {words} tokens, so the prompt is too long."


def _answer(chat: Conversation, begun: str, is_plain: bool) -> WantedAnswer:
    functions = [tool["function"] for tool in chat["tools"]]
    tools = {each["name"]: each.get("parameters") or {} for each in functions}
    return {"begun": begun, "plain": is_plain, "tools": tools or None, "single": chat["single"]}


async def grammar_of(
    job: Job,
    model: ServedModel,
    answer: WantedAnswer | None,
    text: TextClient,
    compiler: Compiler,
) -> Grammar | None:
    """What the answers must obey, if they must obey anything. Raises ProtocolError for what they
    cannot be held to.
    """
    constraint, chat = job["constraint"], job["chat"]
    is_called = chat is not None and bool(chat["tools"])
    holds_calls = chat is not None and (chat["forced"] is not None or bool(chat["strict"]))
    if constraint is None and not (is_called and holds_calls):
        return None
    param = "tools" if constraint is None else constraint["param"]
    begun = None if answer is None else answer["begun"]
    try:
        source = await text.grammar(model.key, constraint, chat, begun)
        if source is None:
            return None
        if model.tokens is None:
            why = f"the tokenizer of model '{model.name}' does not say what its tokens stand for"
            raise unsupported(param, f"{why}, so its answers can be held to no grammar")
        return await compiler.compiled(model.tokens, source)
    except BadParameters as error:
        raise bad_request(f"Invalid 'tools': {error}", "tools") from error
    except BadGrammar as error:
        raise bad_request(f"Invalid '{param}': {error}", param) from error


@contextmanager
def refusing_texts(param: str) -> Iterator[None]:
    """What the tokenizer or its template refuses is a ProtocolError about this field, except that
    it is too long.
    """
    try:
        yield
    except TooManyTokens:
        raise
    except BadVariable as error:
        raise bad_request(str(error), "chat_template_kwargs") from error
    except NoToolCalls as error:
        raise unsupported("tools", str(error)) from error
    except NoForcedCalls as error:
        raise unsupported("tool_choice", str(error)) from error
    except TextError as error:
        raise bad_request(str(error), param) from error


async def tokens_of(job: TokenizeJob, model: ServedModel, text: TextClient, cap: int) -> list[int]:
    """What was asked. cap: the operator's most. Raises ProtocolError as `encode_prompts`."""
    most, param, special = max(cap, model.context_length), param_of(job), job["add_special_tokens"]
    try:
        with refusing_texts(param):
            if job["chat"] is not None:
                return (await text.encode_chat(model.key, job["chat"], most=most))[0]
            texts = [job["prompt"] or ""]
            return (await text.encode(model.key, texts, most=most, special=special))[0]
    except TooManyTokens as error:
        message = f"The text has {error} tokens; at most {most} are accepted here"
        raise too_long(message, param) from error


async def text_of(job: DetokenizeJob, model: ServedModel, text: TextClient, cap: int) -> str:
    """What was asked. cap: the operator's most. Raises ProtocolError for too many, and bad ones."""
    most, num = max(cap, model.context_length), num_tokens(job["tokens"])
    if num > most:
        raise bad_request(f"Invalid 'tokens': {num} is above the limit of {most}", "tokens")
    tokens = unpacked(job["tokens"])
    _check_tokens(tokens, model, "tokens")
    return await text.decode(model.key, tokens)


async def _encoded(
    prompts: Sequence[str | bytes], model: ServedModel, text: TextClient, most: int
) -> list[list[int]]:
    """Prompts that are tokens already stay as they are. Raises TooManyTokens."""
    for prompt in prompts:
        if isinstance(prompt, bytes) and num_tokens(prompt) > most:
            raise TooManyTokens(str(num_tokens(prompt)))
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(await text.encode(model.key, texts, most=most) if texts else ())
    return [next(encoded) if isinstance(prompt, str) else unpacked(prompt) for prompt in prompts]


def requests_of(
    job: Job,
    model: ServedModel,
    prompts: Sequence[Sequence[int]],
    grammar: Grammar | None = None,
    *,
    deadline: float | None,
) -> list[Request]:
    """One request per choice, in order of prompts. `deadline`: on the engine's clock.

    Raises ProtocolError if prompt and answer exceed the context.
    """
    stops = frozenset(job["stop_token_ids"])
    if not job["ignore_eos"]:
        stops |= model.defaults.stop_token_ids
    requests = []
    for index, prompt in enumerate(prompts):
        max_tokens, tokens = _max_tokens(job, model, len(prompt)), tuple(prompt)
        for choice in range(job["n"]):
            requests.append(
                Request(
                    id=f"{job['id']}-{index * job['n'] + choice}",
                    release=model.release,
                    model=model.name,
                    prompt=tokens,
                    max_tokens=max_tokens,
                    sampling=model.defaults.sampling(job, choice_seed(job["seed"], choice)),
                    stop_token_ids=stops,
                    min_tokens=min(job["min_tokens"], max_tokens),
                    prompt_logprobs=job["logprobs"] if job["echo"] else None,
                    tenant=job["tenant"],
                    weight=job["weight"],
                    priority=job["priority"],
                    deadline=deadline,
                    service_class=job["service_class"],
                    grammar=grammar,
                )
            )
    return requests


def _max_tokens(job: Job, model: ServedModel, prompt: int) -> int:
    chat, param = job["chat"] is not None, param_of(job)
    room = model.context_length - prompt
    asked, limit = job["max_tokens"], job["answer_limit"]
    if asked is None and room >= 1:
        default = model.defaults.answer_tokens(chat=chat)
        return min(most for most in (room, default, limit) if most is not None)
    asked = 1 if asked is None else asked
    if limit is not None and asked > limit:
        message = f"Invalid 'max_tokens': {asked} is above this tenant's limit of {limit}"
        raise bad_request(message, "max_tokens")
    if asked > room:
        raise context_exceeded(model.context_length, prompt, asked, param)
    return asked


def context_exceeded(limit: int, prompt: int, answer: int, param: str) -> ProtocolError:
    """In OpenAI's words, and in Anthropic's: by `prompt is too long`, LangChain knows it too."""
    total = prompt + answer
    return too_long(
        f"This model's maximum context length is {limit} tokens. However, you requested "
        f"{total} tokens ({prompt} in the {param}, {answer} in the completion), so the "
        f"prompt is too long by {total - limit}.",
        param,
    )


def _check_tokens(tokens: Sequence[int], model: ServedModel, param: str) -> None:
    worst = max(tokens, default=0)
    if worst >= model.vocabulary:
        raise bad_request(
            f"Invalid '{param}': token {worst} is outside the vocabulary of "
            f"{model.vocabulary} of model '{model.name}'",
            param,
        )


@asynccontextmanager
async def within(seconds: float | None) -> AsyncGenerator[None, None]:
    """Ends the block after so long. Raises ProtocolError then."""
    timer = asyncio.timeout(seconds)
    try:
        async with timer:
            yield
    except TimeoutError as error:
        if timer.expired():
            raise deadline_exceeded() from error
        raise

"""LangChain: `ChatOpenAI`, `OpenAI` and `ChatAnthropic`."""

import asyncio
from typing import Any

import langchain_core.exceptions
import openai
import pydantic
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

from tests.clients.calling import Facts
from tests.clients.questions import (
    LENGTH,
    LONGEST,
    USER,
    holds,
    raises,
    reached,
    reached_as_anthropics,
    same,
)


class Weather(pydantic.BaseModel):
    """The weather of the next days."""

    days: int = pydantic.Field(ge=1, le=3)
    sunny: bool


@tool
def forecast(metric: bool) -> str:
    """The weather of tomorrow."""
    return f"sunny {metric}"


def _chat(facts: Facts, **change: Any) -> ChatOpenAI:
    return ChatOpenAI(**reached(facts, **{**_asked(facts), **change}))


def _anthropic(facts: Facts, **change: Any) -> ChatAnthropic:
    return ChatAnthropic(**reached_as_anthropics(facts, **{**_asked(facts), **change}))


def _asked(facts: Facts) -> dict[str, Any]:
    return {"model": facts.model, "temperature": 0, "max_tokens": LENGTH}


def _brief(facts: Facts) -> dict[str, Any]:
    """Of whom an answer must end by itself."""
    return {"model": facts.brief, "max_tokens": LONGEST}


QUESTION = [SystemMessage("Be brief."), HumanMessage(USER["content"])]


def a_chat_is_invoked(facts: Facts) -> None:
    answer = _chat(facts).invoke(QUESTION)
    holds(isinstance(answer, AIMessage) and answer.content, answer)
    usage: Any = answer.usage_metadata
    same(usage["total_tokens"], usage["input_tokens"] + usage["output_tokens"])
    same(usage["output_tokens"], LENGTH)
    same(answer.response_metadata["finish_reason"], "length")


def an_answer_ends_by_itself(facts: Facts) -> None:
    answer = _chat(facts, **_brief(facts)).invoke(QUESTION)
    same((answer.content, answer.response_metadata["finish_reason"]), (facts.says, "stop"))


def a_chat_is_streamed(facts: Facts) -> None:
    chat = _chat(facts, stream_usage=True)
    chunks = list(chat.stream(QUESTION))
    text = "".join(str(chunk.content) for chunk in chunks)
    same(text, chat.invoke(QUESTION).content)
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    same([usage["output_tokens"] for usage in usages], [LENGTH])


def chats_are_batched(facts: Facts) -> None:
    chat = _chat(facts)
    answers = chat.batch([QUESTION, "hi", QUESTION])
    same(answers[0].content, answers[2].content)
    same(answers[1].content, chat.invoke("hi").content)

    async def run() -> tuple[Any, str]:
        whole = await chat.abatch([QUESTION, "hi"])
        parts = [str(chunk.content) async for chunk in chat.astream(QUESTION)]
        return whole, "".join(parts)

    whole, text = asyncio.run(run())
    same([each.content for each in whole], [answers[0].content, answers[1].content])
    same(text, answers[0].content)


def log_probabilities_are_bound(facts: Facts) -> None:
    answer = _chat(facts).bind(logprobs=True, top_logprobs=2).invoke(QUESTION)
    same(len(answer.response_metadata["logprobs"]["content"]), LENGTH)


def tools_are_bound_and_called(facts: Facts) -> None:
    bound = _chat(facts, **_brief(facts)).bind_tools([forecast], tool_choice="any")
    answer: Any = bound.invoke(QUESTION)
    holds(answer.tool_calls and not answer.invalid_tool_calls, answer)
    same({call["name"] for call in answer.tool_calls}, {"forecast"})
    results = [forecast.invoke(call) for call in answer.tool_calls]
    holds(all(isinstance(result, ToolMessage) for result in results), results)
    free = _chat(facts, **_brief(facts)).bind_tools([forecast])
    same(free.invoke([*QUESTION, answer, *results]).content, facts.says)


def calls_are_streamed(facts: Facts) -> None:
    bound = _chat(facts, **_brief(facts)).bind_tools([forecast], tool_choice="forecast")
    joined: Any = None
    for chunk in bound.stream(QUESTION):
        joined = chunk if joined is None else joined + chunk
    whole: Any = bound.invoke(QUESTION)
    same([call["args"] for call in joined.tool_calls], [call["args"] for call in whole.tool_calls])
    same([call["name"] for call in whole.tool_calls], ["forecast"])


def output_is_structured(facts: Facts) -> None:
    for method in ("json_schema", "function_calling"):
        asked = _chat(facts, **_brief(facts)).with_structured_output(Weather, method=method)
        holds(isinstance(asked.invoke(QUESTION), Weather), method)


def output_is_an_object_of_json(facts: Facts) -> None:
    asked = _chat(facts, **_brief(facts)).with_structured_output(
        None, method="json_mode", include_raw=True
    )
    found: Any = asked.invoke(QUESTION)
    same(found["raw"].response_metadata["finish_reason"], "stop")
    holds(isinstance(found["parsed"], dict), found)


def the_responses_are_used(facts: Facts) -> None:
    chat = _chat(facts, use_responses_api=True)
    answer = chat.invoke(QUESTION)
    same(answer.usage_metadata["output_tokens"], LENGTH)
    joined: Any = None
    for chunk in chat.stream(QUESTION):
        joined = chunk if joined is None else joined + chunk
    same(joined.text, answer.text)
    brief = _chat(facts, use_responses_api=True, **_brief(facts))
    bound = brief.bind_tools([forecast], tool_choice="any")
    calls = bound.invoke(QUESTION).tool_calls
    same([call["name"] for call in calls], ["forecast"])


def completions_are_invoked_streamed_and_batched(facts: Facts) -> None:
    llm = OpenAI(**reached(facts, **{**_asked(facts), "max_tokens": 12}))
    same(llm.invoke(facts.prompt), facts.greedy)
    same("".join(llm.stream(facts.prompt)), facts.greedy)
    same(llm.batch([facts.prompt, facts.prompt]), [facts.greedy] * 2)


def errors_are_the_clients_own(facts: Facts) -> None:
    raises(openai.NotFoundError, lambda: _chat(facts, model="nobody").invoke("hi"))
    raises(openai.AuthenticationError, lambda: _chat(facts, api_key="sk-nobody").invoke("hi"))
    long = "x" * (facts.context + 1)
    raises(langchain_core.exceptions.ContextOverflowError, lambda: _chat(facts).invoke(long))


def a_chat_of_anthropics_is_invoked_and_streamed(facts: Facts) -> None:
    chat = _anthropic(facts)
    answer = chat.invoke(QUESTION)
    same(answer.usage_metadata["output_tokens"], LENGTH)
    joined: Any = None
    for chunk in chat.stream(QUESTION):
        joined = chunk if joined is None else joined + chunk
    same(joined.text, answer.text)


def tools_of_anthropics_are_bound_and_called(facts: Facts) -> None:
    bound = _anthropic(facts, **_brief(facts)).bind_tools([forecast], tool_choice="any")
    answer: Any = bound.invoke(QUESTION)
    same({call["name"] for call in answer.tool_calls}, {"forecast"})
    results = [forecast.invoke(call) for call in answer.tool_calls]
    free = _anthropic(facts, **_brief(facts)).bind_tools([forecast])
    same(free.invoke([*QUESTION, answer, *results]).text, facts.says)
    asked = _anthropic(facts, **_brief(facts)).with_structured_output(Weather)
    holds(isinstance(asked.invoke(QUESTION), Weather), "structured")


def embeddings_are_wanted(facts: Facts) -> None:
    fields: Any = {"model": facts.model, "check_embedding_ctx_length": False}
    OpenAIEmbeddings(**reached(facts, **fields)).embed_query("x")

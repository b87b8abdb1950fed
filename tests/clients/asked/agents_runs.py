"""Runs of OpenAI's agents SDK, over chats and over responses.

The locks of an asynchronous client belong to the event loop that it was first used in, and
`run_sync` has one of its own: no agent is asked in two.
"""

import asyncio
from functools import partial
from typing import Any

import agents
import openai
import pydantic

from tests.clients.calling import Facts
from tests.clients.questions import LONGEST, holds, raises, reached, same

agents.set_tracing_disabled(True)


class Weather(pydantic.BaseModel):
    days: int = pydantic.Field(ge=1, le=3)
    sunny: bool


def _model(facts: Facts, kind: str) -> Any:
    client = openai.AsyncOpenAI(**reached(facts))
    if kind == "chats":
        return agents.OpenAIChatCompletionsModel(model=facts.brief, openai_client=client)
    return agents.OpenAIResponsesModel(model=facts.brief, openai_client=client)


def _agent(facts: Facts, kind: str, *, choice: str | None = None, **change: Any) -> Any:
    settings = agents.ModelSettings(
        temperature=0, max_tokens=LONGEST, tool_choice=choice, include_usage=True, store=False
    )
    fields: dict[str, Any] = {
        "name": "helper",
        "instructions": "Be brief.",
        "model": _model(facts, kind),
        "model_settings": settings,
    }
    return agents.Agent(**{**fields, **change})


def _answers(facts: Facts, kind: str) -> None:
    done = agents.Runner.run_sync(_agent(facts, kind), "hi")
    same(done.final_output, facts.says)
    usage = done.context_wrapper.usage
    same(usage.requests, 1)
    holds(0 < usage.output_tokens < LONGEST, usage)
    same(usage.total_tokens, usage.input_tokens + usage.output_tokens)


def _streams(facts: Facts, kind: str) -> None:
    async def run() -> tuple[str, str]:
        agent = _agent(facts, kind)
        whole = await agents.Runner.run(agent, "hi")
        streamed = agents.Runner.run_streamed(agent, "hi")
        parts = [
            event.data.delta
            async for event in streamed.stream_events()
            if event.type == "raw_response_event"
            and event.data.type == "response.output_text.delta"
        ]
        same("".join(parts), streamed.final_output)
        return whole.final_output, streamed.final_output

    whole, streamed = asyncio.run(run())
    same(streamed, whole)


def _uses_a_tool(facts: Facts, kind: str) -> None:
    asked: list[bool] = []

    @agents.function_tool
    def forecast(metric: bool) -> str:
        """The weather of tomorrow."""
        asked.append(metric)
        return "sunny"

    async def run() -> tuple[Any, Any]:
        agent = _agent(facts, kind, choice="required", tools=[forecast])
        done = await agents.Runner.run(agent, "hi", max_turns=4)
        streamed = agents.Runner.run_streamed(agent, "hi", max_turns=4)
        async for _ in streamed.stream_events():
            pass
        return done, streamed

    for done in asyncio.run(run()):
        same(done.final_output, facts.says)
        kinds = {item.type for item in done.new_items}
        same(kinds, {"tool_call_item", "tool_call_output_item", "message_output_item"})
    holds(len(asked) >= 2, asked)


def _gives_a_class(facts: Facts, kind: str) -> None:
    done = agents.Runner.run_sync(_agent(facts, kind, output_type=Weather), "hi")
    holds(isinstance(done.final_output, Weather), done.final_output)


def an_agent_answers_over_chats(facts: Facts) -> None:
    _answers(facts, "chats")


def an_agent_answers_over_responses(facts: Facts) -> None:
    _answers(facts, "responses")


def an_agent_streams_over_chats(facts: Facts) -> None:
    _streams(facts, "chats")


def an_agent_streams_over_responses(facts: Facts) -> None:
    _streams(facts, "responses")


def an_agent_uses_a_tool_over_chats(facts: Facts) -> None:
    _uses_a_tool(facts, "chats")


def an_agent_uses_a_tool_over_responses(facts: Facts) -> None:
    _uses_a_tool(facts, "responses")


def an_agent_gives_a_class_over_chats(facts: Facts) -> None:
    _gives_a_class(facts, "chats")


def an_agent_gives_a_class_over_responses(facts: Facts) -> None:
    _gives_a_class(facts, "responses")


def a_wrong_model_is_an_error_of_the_client(facts: Facts) -> None:
    for kind in ("chats", "responses"):
        agent = _agent(facts, kind)
        agent.model.model = "nobody"
        raises(openai.NotFoundError, partial(agents.Runner.run_sync, agent, "hi"))

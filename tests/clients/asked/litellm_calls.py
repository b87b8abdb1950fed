"""LiteLLM, by the providers that an endpoint like this is reached through."""

import asyncio
from typing import Any

import litellm

from tests.clients.calling import Facts
from tests.clients.questions import (
    HISTORY,
    LENGTH,
    LONGEST,
    NAMED,
    PARAMETERS,
    TIMEOUT_S,
    TOOLS,
    USER,
    check_weather,
    holds,
    raises,
    same,
)

litellm.telemetry = False


def _asked(facts: Facts, provider: str, **change: Any) -> dict[str, Any]:
    asked = {
        "model": f"{provider}/{facts.model}",
        "api_base": facts.address if provider == "anthropic" else facts.v1,
        "api_key": facts.key,
        "messages": [USER],
        "max_tokens": LENGTH,
        "temperature": 0,
        "timeout": TIMEOUT_S,
        "num_retries": 0,
    }
    return {**asked, **change}


def _complete(facts: Facts, provider: str, **change: Any) -> Any:
    return litellm.completion(**_asked(facts, provider, **change))


def _answered(facts: Facts, provider: str) -> None:
    answer = _complete(facts, provider)
    holds(answer.choices[0].message.content, answer)
    same(answer.choices[0].finish_reason, "length")
    same(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
    same(answer.usage.completion_tokens, LENGTH)
    chunks = list(_complete(facts, provider, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    same(text, answer.choices[0].message.content)
    built: Any = litellm.stream_chunk_builder(chunks)
    same(built.choices[0].message.content, text)
    same(built.usage.completion_tokens, LENGTH)


def _called(facts: Facts, provider: str) -> None:
    model = f"{provider}/{facts.brief}"
    fields: Any = {"model": model, "tools": TOOLS[:1], "tool_choice": NAMED, "max_tokens": LONGEST}
    answer = _complete(facts, provider, **fields)
    message = answer.choices[0].message
    [call] = message.tool_calls
    same((call.function.name, answer.choices[0].finish_reason), ("get_weather", "tool_calls"))
    check_weather(call.function.arguments)
    built: Any = litellm.stream_chunk_builder(
        list(_complete(facts, provider, stream=True, **fields))
    )
    check_weather(built.choices[0].message.tool_calls[0].function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    again = _complete(facts, provider, model=model, messages=[USER, message, result], tools=TOOLS)
    same(again.choices[0].message.content, facts.says)
    same(again.choices[0].finish_reason, "stop")


def chats_by_the_provider_openai(facts: Facts) -> None:
    _answered(facts, "openai")


def chats_by_the_provider_hosted_vllm(facts: Facts) -> None:
    _answered(facts, "hosted_vllm")


def chats_by_the_provider_anthropic(facts: Facts) -> None:
    _answered(facts, "anthropic")


def tools_by_the_provider_openai(facts: Facts) -> None:
    _called(facts, "openai")


def tools_by_the_provider_hosted_vllm(facts: Facts) -> None:
    _called(facts, "hosted_vllm")


def tools_by_the_provider_anthropic(facts: Facts) -> None:
    _called(facts, "anthropic")


def chats_at_once(facts: Facts) -> None:
    async def run() -> list[str]:
        async def whole() -> str:
            answer: Any = await litellm.acompletion(**_asked(facts, "openai"))
            return str(answer.choices[0].message.content)

        async def streamed() -> str:
            stream: Any = await litellm.acompletion(**_asked(facts, "hosted_vllm", stream=True))
            parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return "".join(parts)

        return list(await asyncio.gather(whole(), streamed(), whole()))

    texts = asyncio.run(run())
    same(set(texts), {texts[0]})


def completions_of_text(facts: Facts) -> None:
    for provider in ("text-completion-openai", "hosted_vllm"):
        asked: Any = {
            "model": f"{provider}/{facts.model}",
            "api_base": facts.v1,
            "api_key": facts.key,
            "prompt": facts.prompt,
            "max_tokens": 12,
            "temperature": 0,
        }
        if provider == "hosted_vllm":  # asks for a chat
            holds(litellm.text_completion(**asked).choices[0].text, provider)
            continue
        same(litellm.text_completion(**asked).choices[0].text, facts.greedy)
        chunks = litellm.text_completion(**asked, stream=True)
        same("".join(chunk.choices[0].text or "" for chunk in chunks), facts.greedy)


def log_probabilities_and_histories(facts: Facts) -> None:
    answer = _complete(facts, "hosted_vllm", logprobs=True, top_logprobs=2)
    same(len(answer.choices[0].logprobs.content), LENGTH)
    again = _complete(facts, "openai", messages=HISTORY, tools=TOOLS)
    holds(again.choices[0].message, again)


def reasoning_is_told_apart(facts: Facts) -> None:
    answer = _complete(facts, "hosted_vllm", reasoning_effort="low")
    holds(answer.choices[0].message.reasoning_content, answer)


def an_answer_fits_its_schema(facts: Facts) -> None:
    form = {"name": "weather", "schema": PARAMETERS, "strict": True}
    for provider in ("openai", "hosted_vllm"):
        answer = _complete(
            facts,
            provider,
            model=f"{provider}/{facts.brief}",
            response_format={"type": "json_schema", "json_schema": form},
            max_tokens=LONGEST,
        )
        same(answer.choices[0].finish_reason, "stop")
        check_weather(answer.choices[0].message.content)


def responses_by_the_provider_openai(facts: Facts) -> None:
    answer: Any = litellm.responses(
        model=f"openai/{facts.model}",
        api_base=facts.v1,
        api_key=facts.key,
        input="hi",
        max_output_tokens=LENGTH,
        temperature=0,
    )
    same(answer.usage.output_tokens, LENGTH)


def errors_are_the_clients_own(facts: Facts) -> None:
    def ask(**change: Any) -> Any:
        return lambda: _complete(facts, "openai", **change)

    raises(litellm.NotFoundError, ask(model="openai/nobody"))
    raises(litellm.AuthenticationError, ask(api_key="sk-nobody"))
    raises(litellm.BadRequestError, ask(temperature=9))
    long = [{"role": "user", "content": "x" * (facts.context + 1)}]
    raises(litellm.ContextWindowExceededError, ask(messages=long))


def embeddings_are_wanted(facts: Facts) -> None:
    litellm.embedding(
        model=f"openai/{facts.model}", api_base=facts.v1, api_key=facts.key, input=["x"]
    )

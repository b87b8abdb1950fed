"""Completions by the openai client, and its asynchronous form."""

import asyncio
from typing import Any

import openai

from tests.clients.calling import Facts
from tests.clients.questions import LENGTH, USER, holds, reached, same


def _complete(facts: Facts, **change: Any) -> Any:
    asked = {"model": facts.model, "prompt": facts.prompt, "max_tokens": LENGTH, "temperature": 0}
    client = openai.OpenAI(**reached(facts))
    return client.completions.create(**{**asked, **change})


def an_answer_is_the_checkpoints_own(facts: Facts) -> None:
    answer = _complete(facts, max_tokens=12)
    same(answer.choices[0].text, facts.greedy)
    usage = answer.usage
    same(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)


def a_stream_joined_is_the_answer(facts: Facts) -> None:
    whole = _complete(facts)
    chunks = list(_complete(facts, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    same(text, whole.choices[0].text)
    same(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)


def several_prompts_and_tokens_are_taken(facts: Facts) -> None:
    alone = _complete(facts).choices[0].text
    both = _complete(facts, prompt=[facts.prompt, "other"])
    same([choice.index for choice in both.choices], [0, 1])
    same(both.choices[0].text, alone)
    tokens = [1, *(3 + byte for byte in range(5))]
    same(_complete(facts, prompt=tokens).usage.prompt_tokens, len(tokens))


def a_prompt_is_scored(facts: Facts) -> None:
    answer = _complete(facts, echo=True, logprobs=2, max_tokens=0)
    shown = answer.choices[0].logprobs
    same(shown.token_logprobs[0], None)
    same(len(shown.tokens), answer.usage.prompt_tokens)
    holds(all(len(top) >= 2 for top in shown.top_logprobs[1:]), shown)
    same(answer.usage.completion_tokens, 0)


def a_completion_with_best_of_equal_to_n_is_answered(facts: Facts) -> None:
    answer = _complete(facts, n=2, best_of=2, temperature=1, seed=3)
    same(len(answer.choices), 2)


def many_are_asked_at_once(facts: Facts) -> None:
    async def run() -> list[Any]:
        async with openai.AsyncOpenAI(**reached(facts)) as client:
            fields: Any = {"model": facts.model, "max_tokens": LENGTH, "temperature": 0}

            async def streamed() -> str:
                stream = await client.chat.completions.create(
                    **fields, messages=[USER], stream=True
                )
                parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
                return "".join(parts)

            async def whole() -> str:
                answer = await client.chat.completions.create(**fields, messages=[USER])
                return answer.choices[0].message.content or ""

            async def raw() -> str:
                reading = client.chat.completions.with_raw_response
                answer = (await reading.create(**fields, messages=[USER])).parse()
                return answer.choices[0].message.content or ""

            same([model.id async for model in client.models.list()], list(facts.models))
            return await asyncio.gather(*(ask() for ask in (streamed, whole, raw) * 3))

    texts = asyncio.run(run())
    same(set(texts), {texts[0]})


def a_stream_may_be_left(facts: Facts) -> None:
    stream = _complete(facts, stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    same(_complete(facts, max_tokens=12).choices[0].text, facts.greedy)


def text_is_to_be_filled_in(facts: Facts) -> None:
    _complete(facts, suffix="the end")


def the_best_of_more_is_wanted(facts: Facts) -> None:
    _complete(facts, n=1, best_of=3, temperature=1)

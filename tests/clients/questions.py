"""What all clients ask, of whom, and what an answer must be. Imports no client."""

import json
from collections.abc import Callable
from typing import Any

from tests.clients.calling import Facts

LENGTH = 24
"""Tokens of an answer that its length ends: a random model seldom ends one."""
LONGEST = 200
"""Tokens of an answer that ends by itself: none needs as many."""
TIMEOUT_S = 60.0
USER: Any = {"role": "user", "content": "What is the weather in Paris?"}
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "days": {"enum": [1, 2, 3]},
        "metric": {"type": "boolean"},
    },
    "required": ["city", "days", "metric"],
    "additionalProperties": False,
}
FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of the next days.",
    "parameters": PARAMETERS,
}
TOOL: Any = {"type": "function", "function": FUNCTION}
OTHER_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "run",
        "description": "Does it.",
        "parameters": {
            "type": "object",
            "properties": {"now": {"type": "boolean"}},
            "required": ["now"],
            "additionalProperties": False,
        },
    },
}
TOOLS: Any = [TOOL, OTHER_TOOL]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
CALL: Any = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Paris", "days": 1}'},
}
HISTORY: Any = [
    {"role": "system", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]


def reached(facts: Facts, **change: Any) -> dict[str, Any]:
    """How clients of OpenAI's are made, and LangChain's for both protocols."""
    fields = {
        "base_url": facts.v1,
        "api_key": facts.key,
        "max_retries": 0,
        "timeout": TIMEOUT_S,
    }
    return {**fields, **change}


def reached_as_anthropics(facts: Facts, **change: Any) -> dict[str, Any]:
    """How clients of Anthropic's are made: they add `/v1` themselves."""
    return reached(facts, base_url=facts.address, **change)


def check_weather(arguments: Any) -> None:
    """Of a call of `get_weather`, as JSON or read: fits `PARAMETERS`."""
    given = json.loads(arguments) if isinstance(arguments, str) else arguments
    same(sorted(given), ["city", "days", "metric"])
    holds(isinstance(given["city"], str) and len(given["city"]) <= 8, given)
    holds(given["days"] in (1, 2, 3) and isinstance(given["metric"], bool), given)


def same(found: Any, wanted: Any) -> None:
    if found != wanted:
        raise AssertionError(f"{found!r} is not {wanted!r}")


def holds(condition: Any, found: Any) -> None:
    if not condition:
        raise AssertionError(f"not as it must be: {found!r}")


def stop_in(text: str) -> str:
    """A character that does not stand at the beginning, which a stop string may be."""
    return next(each for each in text[3:] if each.isprintable() and each not in "\ufffd" + text[:3])


def raises(kind: type[BaseException], ask: Callable[[], Any], **has: Any) -> Any:
    """What `ask` raises, which must be of this class and have these attributes."""
    try:
        answer = ask()
    except kind as error:
        for name, value in has.items():
            same(getattr(error, name), value)
        return error
    raise AssertionError(f"no {kind.__name__}, but {answer!r}")

"""Runs the calls of one client, in the clients' own environment. Judges nothing.

A client's calls are the public functions of a module of `asked`; their names are sentences. Each
takes the facts of the endpoint, and raises whatever is wrong.
"""

import importlib
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

Call = Callable[["Facts"], None]


@dataclass(frozen=True)
class Scored:
    """logprob: of `continuation` after `context`, by the checkpoint itself."""

    context: str
    continuation: str
    logprob: float


@dataclass(frozen=True)
class Facts:
    """models: the ids of all.   context: the longest prompt and answer, in tokens.

    tokenizer: a folder.   scored: of the first model.   greedy: what the first model answers to
    `prompt` in 12 tokens, by the checkpoint itself.   brief: the model whose answers end.   says:
    what it answers to any chat, if nothing else is asked of it.
    """

    address: str
    key: str
    models: tuple[str, ...]
    context: int
    tokenizer: str
    prompt: str
    greedy: str
    brief: str
    says: str
    scored: tuple[Scored, ...]

    @property
    def model(self) -> str:
        return self.models[0]

    @property
    def v1(self) -> str:
        return f"{self.address}/v1"

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def of_json(text: str) -> "Facts":
        given = json.loads(text)
        scored = tuple(Scored(**each) for each in given.pop("scored"))
        models = tuple(given.pop("models"))
        return Facts(**given, models=models, scored=scored)


def calls_of(module: ModuleType) -> Iterator[tuple[str, Call]]:
    """In the order in which they are written."""
    for name, value in vars(module).items():
        is_own = inspect.isfunction(value) and value.__module__ == module.__name__
        if is_own and not name.startswith("_"):
            yield name.replace("_", " "), value


def outcome_of(call: Call, facts: Facts) -> dict[str, Any]:
    """error: the class of what it raised, and None if it raised nothing."""
    begun = time.monotonic()
    error: str | None = None
    said = ""
    try:
        call(facts)
    except Exception as caught:  # noqa: BLE001  whatever a client raises is what is asked for
        error = f"{type(caught).__module__.split('.')[0]}.{type(caught).__qualname__}"
        said = f"{caught}" or repr(caught)
    return {"error": error, "said": said, "seconds": round(time.monotonic() - begun, 3)}


def main(client: str) -> None:
    """Reads the facts from standard input, and writes a line of JSON for each call."""
    facts = Facts.of_json(sys.stdin.read())
    module = importlib.import_module(f"tests.clients.asked.{client}")
    told = sys.stdout
    sys.stdout = sys.stderr  # what clients print is no result
    for name, call in calls_of(module):
        line = {"client": client, "call": name, **outcome_of(call, facts)}
        print(json.dumps(line), file=told, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

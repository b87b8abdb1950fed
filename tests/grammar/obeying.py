"""A small engine whose answers obey grammars, and what they say."""

import json
from collections.abc import Mapping, Sequence
from datetime import time
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from serve_app.engine.engine import Engine
from serve_app.engine.request import Request, Sampling
from serve_app.grammar.sources import source_of
from serve_app.grammar.vocabulary import Grammar, Vocabulary
from serve_app.text.tokenizer import Tokenizer
from tests.engine.running import Answer, answer

_FORMATS = FormatChecker(["date", "ipv4", "uuid"])


@_FORMATS.checks("time", raises=ValueError)
def _is_time(value: object) -> bool:
    """By RFC 3339, section 5.6, as JSON schemas mean it since draft 7. jsonschema's own check is
    of draft 3, which had no offsets. Its letters may be small, and a 60th
    second is a leap second.
    """
    if not isinstance(value, str):
        return True
    return time.fromisoformat(value.upper().replace(":60", ":59")).tzinfo is not None


class Obeying:
    """tokenizer: of all models of the engine's only release, `r1`."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        found = tokenizer.vocabulary_bytes()
        assert found is not None
        self.vocabulary = Vocabulary(found, tokenizer.marks.values())

    def grammar(self, kind: str, value: Any) -> Grammar:
        return self.vocabulary.compile(source_of(kind, value))

    def request(
        self, name: str, model: str, grammar: Grammar | None, max_tokens: int = 200, **given: Any
    ) -> Request:
        """At temperature 1, with a seed of the name's, unless `given` says otherwise."""
        end = self.tokenizer.eos_token_id
        stops = frozenset() if end is None else frozenset({end})
        prompt = tuple(self.tokenizer.encode(f"Answer {name} as JSON:"))
        usual: dict[str, Any] = {
            "sampling": Sampling(seed=sum(name.encode())),
            "stop_token_ids": stops,
        }
        return Request(name, "r1", model, prompt, max_tokens, grammar=grammar, **usual | given)

    def answers(self, requests: Sequence[Request]) -> dict[str, Answer]:
        return answer(self.engine, requests)

    def text(self, got: Answer) -> str:
        """Without the stop token, if one has ended it."""
        shown = got.tokens[:-1] if got.finish == "stop" else got.tokens
        return self.tokenizer.decode(shown)


def wrong(schema: Mapping[str, Any], text: str) -> str | None:
    """Why a text is no JSON of this schema; None if it is."""
    validator = Draft202012Validator(schema, format_checker=_FORMATS)
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"{text!r} is no JSON: {error}"
    found = next(iter(validator.iter_errors(value)), None)
    return None if found is None else f"{text!r}: {found.message}"

"""Measures answers that obey schemas, on real checkpoints: how many do, and what a token costs."""

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from serve_app.engine.config import EngineConfig
from serve_app.grammar.vocabulary import Grammar
from serve_app.text.tokenizer import Tokenizer
from tests.engine.running import engine_of
from tests.grammar.obeying import Obeying, wrong
from tests.grammar.schemas import made_up
from tests.support.sources import MemorySource

_ROWS = 16
_LONG: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 60, "maxLength": 200},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 20, "maxLength": 60},
                    "count": {"type": "integer", "minimum": 0, "maximum": 99999},
                    "kind": {"enum": ["first", "second", "third"]},
                },
                "required": ["name", "count", "kind"],
                "additionalProperties": False,
            },
            "minItems": 20,
            "maxItems": 40,
        },
    },
    "required": ["title", "items"],
    "additionalProperties": False,
}
"""So long that every answer ends at its length."""


def obeying_of(model: Path, dtype: str) -> Obeying:
    original: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    config = EngineConfig(device="cpu", dtype=dtype, kv_tokens=16384, max_sequences=64)
    engine = engine_of(MemorySource("r1", {"m": original}), config=config)
    return Obeying(engine, Tokenizer.load(model))


def validity(made: Obeying, num: int, max_tokens: int) -> dict[str, Any]:
    """Of made-up schemas, how many answers end by themselves, and how many of these are right."""
    schemas = [made_up(seed) for seed in range(num)]
    begun = time.process_time()
    grammars = [made.grammar("json", schema) for schema in schemas]
    compiled_s = time.process_time() - begun
    requests = [
        made.request(f"{seed}", "m", grammar, max_tokens) for seed, grammar in enumerate(grammars)
    ]
    answers = made.answers(requests)
    ended = [n for n in range(num) if answers[f"{n}"].finish in ("stop", "complete")]
    why = [wrong(schemas[n], made.text(answers[f"{n}"])) for n in ended]
    return {
        "schemas": num,
        "ended": len(ended),
        "valid": why.count(None),
        "failed": sum(got.error is not None for got in answers.values()),
        "wrong": [each for each in why if each is not None][:5],
        "compile_ms": round(1000 * compiled_s / num, 2),
    }


def cost(made: Obeying, pairs: int, max_tokens: int) -> dict[str, Any]:
    """Processor seconds of the whole process for a token, with and without, in turn."""
    grammar = made.grammar("json", _LONG)
    _seconds_a_token(made, grammar, max_tokens, "first")
    found = []
    for number in range(pairs):
        each = [
            _seconds_a_token(made, one, max_tokens, f"{number}-{one is None}")
            for one in ((grammar, None) if number % 2 else (None, grammar))
        ]
        without, with_it = reversed(each) if number % 2 else each
        found.append((with_it, without))
    ratios = [with_it / without for with_it, without in found]
    return {
        "us_a_token_with": round(1e6 * geometric_mean([a for a, _ in found]), 1),
        "us_a_token_without": round(1e6 * geometric_mean([b for _, b in found]), 1),
        "ratio": round(geometric_mean(ratios), 4),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def _seconds_a_token(made: Obeying, grammar: Grammar | None, max_tokens: int, name: str) -> float:
    given: dict[str, Any] = {"stop_token_ids": frozenset()}
    requests = [
        made.request(f"{name}-{row}", "m", grammar, max_tokens, **given) for row in range(_ROWS)
    ]
    begun = time.process_time()
    answers = made.answers(requests)
    spent = time.process_time() - begun
    return spent / sum(len(got.tokens) for got in answers.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.grammar", description=__doc__)
    parser.add_argument("model", type=Path, help="a checkpoint with its tokenizer")
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=400, help="the longest answer")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    asked = parser.parse_args()
    made = obeying_of(asked.model, asked.dtype)
    result: dict[str, Any] = {}
    if asked.schemas:
        result["validity"] = validity(made, asked.schemas, asked.tokens)
    if asked.pairs:
        result["cost"] = cost(made, asked.pairs, 128)
    print(json.dumps(result, indent=2, ensure_ascii=False))
    made.engine.close()
    found = result.get("validity", {})
    return int(found.get("valid") != found.get("ended"))


if __name__ == "__main__":
    sys.exit(main())

"""Measures what two tenants get of one engine that both of them keep waiting. No HTTP."""

from collections.abc import Mapping

from serve_app.bench.requests.outcomes import jain
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.step.session import GREEDY, running
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.engine.request import Failed, Request, Token
from serve_app.engine.source import ReleaseSource
from serve_app.scheduling.fairness.queue import ANSWER_PRICE, PROMPT_PRICE

TOKENS = 16
"""Of each prompt, and of each answer of the tenant that sends less."""
LONGER = 4
"""The answers of the other are so many times as long."""
AT_ONCE = 16
FEW = 48
"""Requests of the tenant that sends less, all to one model; the other sends ten times as many."""


def bound(tokens: int) -> float:
    """Virtual tokens by which two tenants that wait may differ, with prompts of so many tokens and
    the longer answers, in one class: see scheduling/fairness/queue.py.
    """
    return 2 * (tokens * PROMPT_PRICE + AT_ONCE * LONGER * tokens * ANSWER_PRICE)


def backlogged(
    source: ReleaseSource,
    *,
    few: int = FEW,
    tokens: int = TOKENS,
    on_progress: OnProgress = lambda *_: None,
) -> Mapping[str, Measured]:
    """The largest difference of what both got while both waited, divided by the bound, and Jain's
    index of what they had at the end.

    One tenant sends `few` requests to one model, the other ten times as many to all models, for
    longer answers.   tokens: of each prompt, and of the shorter answers.
    """
    models = sorted(source.models)
    config = EngineConfig(
        device="cpu",
        kv_tokens=AT_ONCE * 2 * LONGER * TOKENS,
        max_sequences=AT_ONCE,
        prefix_cache=False,
    )
    got = {"few": 0.0, "many": 0.0}
    largest, begun = 0.0, 0
    with running(Engine.open(source, config), source) as engine:
        for number in range(few):
            engine.submit(_request(source, models[0], f"few {number}", tokens, tokens))
        for number in range(10 * few):
            model = models[number % len(models)]
            engine.submit(_request(source, model, f"many {number}", tokens, LONGER * tokens))
        while begun < few:
            for event in engine.step():
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Token):
                    tenant = event.request.split()[0]
                    is_first = event.queued_s is not None
                    got[tenant] += ANSWER_PRICE + is_first * tokens * PROMPT_PRICE
                    begun += is_first and tenant == "few"
            largest = max(largest, abs(got["few"] - got["many"]))
            on_progress("backlogged tenants", begun, few)
    facts = {"virtual_tokens": got, "largest_difference": largest, "bound": bound(tokens)}
    index = jain(list(got.values()))
    assert index is not None, "both got something"
    return {
        "tenants_apart_over_bound": Measured(largest / bound(tokens), facts),
        "jain_of_two_tenants": Measured(index, facts),
    }


def _request(source: ReleaseSource, model: str, name: str, prompt: int, answer: int) -> Request:
    tenant, number = name.split()
    ids = tuple(3 + (int(number) * 7 + position) % 97 for position in range(prompt))
    return Request(name, source.id, model, ids, answer, GREEDY, tenant=tenant)

"""Compares whole answers of encoder–decoder models: of several at once, and of transformers.

On the CPU. Each figure is a median over rounds, in which everything is measured in turn.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from representation.architecture.config import config_of, model_classes
from serve_app.bench.bars.decoding import median_ratio
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.step.session import GREEDY, IDLE_S, running, shortest_vocabulary
from serve_app.engine.config import EngineConfig
from serve_app.engine.engine import Engine
from serve_app.engine.model.facts import resolve_dtype
from serve_app.engine.request import Request
from serve_app.engine.source import ReleaseSource

STAGE = "answers of encoder–decoders"


@dataclass(frozen=True, slots=True)
class Asking:
    """What is asked: `sequences` of each model, each an input and an answer of so many tokens.

    rounds: how often everything is measured.   batch: of what transformers is given at once.
    """

    sequences: int = 4
    inputs: int = 64
    answers: int = 48
    rounds: int = 3
    batch: int = 16


def encoder_ratios(
    source: ReleaseSource, wanted: Asking = Asking(), on_progress: OnProgress = lambda *_: None
) -> Mapping[str, Measured]:
    """`encoders_packed_over_sequential`: the time of all models' requests at once, divided by that
    of each model's requests one model after another.

    `encoders_over_transformers`: tokens per second of a batch of one model's requests, divided by
    those of `generate()` of the stock model with random weights.
    """
    names = sorted(source.models)
    stock = _stock(source, names[0])
    seconds: dict[str, list[float]] = {"packed": [], "sequential": [], "batch": [], "generate": []}
    with running(Engine.open(source, _config(wanted, len(names))), source) as engine:
        _ask(engine, source, names, 1, wanted)  # loads every backbone
        for number in range(wanted.rounds):
            on_progress(STAGE, number, wanted.rounds)
            seconds["packed"].append(_ask(engine, source, names, wanted.sequences, wanted))
            apart = [_ask(engine, source, [name], wanted.sequences, wanted) for name in names]
            seconds["sequential"].append(sum(apart))
            seconds["batch"].append(_ask(engine, source, names[:1], wanted.batch, wanted))
            seconds["generate"].append(_generate(stock, source, wanted))
    on_progress(STAGE, wanted.rounds, wanted.rounds)
    facts = {f"{name}_s": statistics.median(each) for name, each in seconds.items()}
    packed = median_ratio(seconds["packed"], seconds["sequential"])
    return {
        "encoders_packed_over_sequential": Measured(packed, facts),
        "encoders_over_transformers": Measured(
            median_ratio(seconds["generate"], seconds["batch"]), facts
        ),
    }


def _config(wanted: Asking, num_models: int) -> EngineConfig:
    most = max(wanted.sequences * num_models, wanted.batch)
    tokens = wanted.inputs + wanted.answers + 16
    return EngineConfig(
        device="cpu",
        kv_tokens=most * tokens,
        step_tokens=most * (wanted.inputs + 2),
        max_sequences=most,
        prefix_cache=False,
    )


def _ask(
    engine: Engine, source: ReleaseSource, names: Sequence[str], each: int, wanted: Asking
) -> float:
    """Seconds until all answers of all these models are there."""
    requests = [
        Request(f"{name} {n}", source.id, name, prompt, wanted.answers, GREEDY)
        for name in names
        for n, prompt in enumerate(_inputs(source, each, wanted))
    ]
    began = time.perf_counter()
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        engine.step()
        if not engine.is_stepping:
            time.sleep(IDLE_S)
    return time.perf_counter() - began


def _inputs(source: ReleaseSource, count: int, wanted: Asking) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(0)
    size = (count, wanted.inputs)
    found = torch.randint(2, shortest_vocabulary(source), size, generator=generator)
    return [tuple(row) for row in found.tolist()]


def _stock(source: ReleaseSource, name: str) -> Any:
    config = config_of(source.models[name].config)
    (kind,) = model_classes(config)
    return kind._from_config(config, dtype=resolve_dtype("auto", source.dtype)).eval()


@torch.no_grad()
def _generate(stock: Any, source: ReleaseSource, wanted: Asking) -> float:
    """Seconds of `generate()` for a batch, whose inputs are equally long."""
    inputs = torch.tensor(_inputs(source, wanted.batch, wanted))
    began = time.perf_counter()
    stock.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        min_new_tokens=wanted.answers,
        max_new_tokens=wanted.answers,
        do_sample=False,
    )
    return time.perf_counter() - began

"""Gathers statistics: what each expert gets as input, and how much its output moves the logits.

One task per model. transformers' own model, in float32, runs over calibration windows; at every
scored position a token is drawn from the model's own prediction, and the gradient of its
log-probability is taken. Second moments of inputs and gradients make the metrics of
`consolidation/arithmetic/metric.py`; `statistics/stored.py` keeps them. One thread computes the
windows, one after another, so that sums have one order: the digest of a release depends on them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from consolidation.arithmetic.metric import Metric
from consolidation.arithmetic.rounding import round_matrix
from consolidation.errors import Refused
from consolidation.statistics.experts_forward import watching
from consolidation.statistics.moments import Record
from consolidation.statistics.scoring import divergence, load_original, window_logits
from consolidation.statistics.stored import StatisticsStore
from consolidation.statistics.text import Window
from representation.formats import Packed

BATCH_TOKENS = 512
PROBE_TOKENS = 8192
MOST_OFF = 30.0
"""Measured divergence over predicted, or the reverse: a larger factor is taken as this one."""


@dataclass(frozen=True, slots=True)
class StatisticsTask:
    """One model, the windows to gather its statistics on, and others to try them on.

    roundings: packed formats, finest first, that the predicted divergences are tried with.
    """

    name: str
    directory: Path
    modules: tuple[str, ...]
    windows: tuple[Window, ...]
    probes: tuple[Window, ...]
    roundings: tuple[Packed, ...]
    store: StatisticsStore


def gather(task: StatisticsTask) -> dict[str, Any]:
    """Keep a model's statistics. -> by rounding, the cost predicted and the divergence measured

    Raises `Refused` when the model gives values that are not finite.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"model": task.name, "probes": _gather(task)}
    finally:
        torch.set_num_threads(threads)


def _gather(task: StatisticsTask) -> list[tuple[float, float]]:
    model = load_original(task.directory)
    model.requires_grad_(False)
    metrics = _metrics(model, task)
    factor, probes = _probe(model, task, metrics)
    for layer, found in enumerate(metrics):
        for index in range(len(next(iter(found.values()), ()))):
            scaled = {name: experts[index].scaled(factor) for name, experts in found.items()}
            task.store.keep(task.name, layer, index, scaled)
    return probes


def _metrics(model: Any, task: StatisticsTask) -> list[dict[str, list[Metric]]]:
    """Metrics of all experts, by layer and matrix."""
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, __, output: output.requires_grad_()
    )
    generator = torch.Generator().manual_seed(0)
    with watching(model, task.modules) as records:
        num_scored = sum(_run(model, batch, records, generator) for batch in _batches(task.windows))
    hook.remove()
    return [record.metrics(num_scored) for record in records]


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Neighbouring windows, as many as fit side by side into `BATCH_TOKENS`."""
    batch: list[Window] = []
    for window in windows:
        width = max(len(one.tokens) for one in (*batch, window))
        if batch and width * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _run(
    model: Any, batch: Sequence[Window], records: Sequence[Record], generator: torch.Generator
) -> int:
    """Run windows side by side, forwards and backwards. -> number of scored positions

    Shorter ones are padded at their ends: no token sees those that come after it.
    """
    width = max(len(window.tokens) for window in batch)
    tokens = torch.tensor([[*w.tokens, *[0] * (width - len(w.tokens))] for w in batch])
    real = torch.tensor([[i < len(w.tokens) for i in range(width)] for w in batch]).flatten()
    for record in records:
        record.real = real
    logits = model(input_ids=tokens, use_cache=False).logits  # (B, T, V)
    predicted = [
        logits[i, w.first_scored - 1 : len(w.tokens) - 1].float() for i, w in enumerate(batch)
    ]
    scores = functional.log_softmax(torch.cat(predicted), -1)  # (scored, V)
    if not bool(scores.isfinite().all()):
        raise Refused(f"{model.config._name_or_path}: gives values that are not finite")
    drawn = torch.multinomial(scores.detach().exp(), 1, generator=generator)
    scores.gather(1, drawn).sum().backward()
    return len(scores)


def _probe(
    model: Any, task: StatisticsTask, metrics: Sequence[dict[str, list[Metric]]]
) -> tuple[float, list[tuple[float, float]]]:
    """Round all experts, and compare the divergence measured with the cost predicted.

    Measured on windows that the statistics have not seen. -> the factor that makes the metrics
    right for the coarsest rounding, and (cost, divergence) by rounding with metrics so scaled
    """
    windows = list(_some(task.probes))
    before = [window_logits(model, window) for window in windows]
    found = []
    for fmt in task.roundings:
        predicted = _round_experts(model, task.modules, metrics, fmt)
        pairs = zip(before, windows, strict=True)
        total = math.fsum(divergence(one, window_logits(model, w)) for one, w in pairs)
        found.append((predicted, max(0.0, total / sum(len(logits) for logits in before))))
    most, measured = found[-1]
    factor = 1.0
    if most > 0 and measured > 0:
        factor = min(MOST_OFF, max(1 / MOST_OFF, measured / most))
    return factor, [(factor * cost, kl) for cost, kl in found]


def _round_experts(
    model: Any, modules: Sequence[str], metrics: Sequence[dict[str, list[Metric]]], fmt: Packed
) -> float:
    """Round all experts of a model, in place. -> the predicted cost"""
    cost = 0.0
    for module, found in zip(modules, metrics, strict=True):
        experts = model.get_submodule(module)
        for name, by_expert in found.items():
            for weights, metric in zip(getattr(experts, name), by_expert, strict=True):
                upright = weights.T if experts.is_transposed else weights
                error = round_matrix(upright, fmt, metric).values - upright
                upright += error
                cost += metric.noise_cost(error)
    return cost


def _some(windows: Sequence[Window]) -> Iterator[Window]:
    """Windows spread over all of them, with about `PROBE_TOKENS` tokens."""
    num_tokens = sum(len(window.tokens) for window in windows)
    yield from windows[:: max(1, round(num_tokens / PROBE_TOKENS))]

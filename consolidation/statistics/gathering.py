"""Gathers statistics: what each expert gets as input, and how much its output moves the logits.

One task per model. transformers' own model, in float32 and one layer at a time, runs over
calibration windows; at every scored position a token is drawn from the model's own prediction, and
the gradient of its log-probability is taken. The inputs of all layers are set aside on the way
forwards; on the way back each layer is filled once more, and computes what it computed again.
Second moments of inputs and gradients make the metrics of `consolidation/arithmetic/metric.py`;
`statistics/stored.py` keeps them. One thread computes the windows, one after another, so that sums
have one order: the digest of a release depends on them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from consolidation.arithmetic.on_device import CPU, same_sums
from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.errors import Refused
from consolidation.run.executor import Tell, tell_nobody
from consolidation.statistics.experts_forward import experts_one_by_one
from consolidation.statistics.moments import Record
from consolidation.statistics.probing import probe, probing_work
from consolidation.statistics.stored import StatisticsStore
from consolidation.statistics.text import Window
from consolidation.walk.course import FILLING, Course
from consolidation.walk.forward import HELD_BYTES, enter_each
from consolidation.walk.scratch import Scratch
from consolidation.walk.streamed import Keywords, Layer, StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights
from representation.formats import Packed

BATCH_TOKENS = 512
BACKWARDS = 4
"""A layer takes so many times as long backwards as forwards."""


@dataclass(frozen=True, slots=True)
class StatisticsTask:
    """One model, the windows to gather its statistics on, and others to try them on.

    roundings: packed formats, finest first, that the predicted divergences are tried with.
    device: that computes.
    """

    name: str
    checkpoint: Checkpoint
    windows: tuple[Window, ...]
    probes: tuple[Window, ...]
    roundings: tuple[Packed, ...]
    store: StatisticsStore
    device: torch.device = CPU


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows side by side: tokens (B, T), and which of them (B * T,) are not there to fill up."""

    windows: tuple[Window, ...]
    tokens: torch.Tensor
    real: torch.Tensor


def gather(task: StatisticsTask, tell: Tell = tell_nobody) -> dict[str, Any]:
    """Keep a model's statistics. -> by rounding, the cost predicted and the divergence measured

    Raises `Refused` when the model gives values that are not finite.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        course = Course(tell, _work(task))
        with same_sums(task.device):
            model = StreamedModel(CheckpointWeights(task.checkpoint), task.device, course.passed)
            _keep_metrics(model, task)
            factor, probes = probe(model, task.name, task.probes, task.roundings, task.store)
        task.store.keep_factor(task.name, factor)
        return {"model": task.name, "probes": probes}
    finally:
        torch.set_num_threads(threads)


def _work(task: StatisticsTask) -> float:
    """What gathering does, as `walk/course.py` counts it."""
    tokens = sum(len(window.tokens) for window in task.windows)
    return (1 + BACKWARDS) * (tokens + FILLING) + probing_work(task.probes, task.roundings)


def _keep_metrics(model: StreamedModel, task: StatisticsTask) -> None:
    """Keep the metrics of all experts, from the last layer to the first."""
    batches = list(batches_of(task.windows, model.device))
    with experts_one_by_one(model.stock), Scratch(HELD_BYTES) as states:
        calls = _forwards(model, batches, states)
        num_scored = _score(model, task, batches, states)
        for layer in model.filled(backwards=True):
            record = _backwards(model, layer, batches, calls, states)
            if record is None or layer.experts is None:
                continue
            for index, metrics in enumerate(record.metrics(num_scored)):
                task.store.keep(task.name, layer.experts, index, metrics)


def batches_of(windows: Sequence[Window], device: torch.device) -> Iterator[Batch]:
    """Neighbouring windows, as many as fit side by side into `BATCH_TOKENS`.

    Shorter ones are padded at their ends: no token sees those that come after it.
    """
    batch: list[Window] = []
    for window in windows:
        width = max(len(one.tokens) for one in (*batch, window))
        if batch and width * (len(batch) + 1) > BATCH_TOKENS:
            yield _batch(batch, device)
            batch = []
        batch.append(window)
    if batch:
        yield _batch(batch, device)


def _batch(windows: Sequence[Window], device: torch.device) -> Batch:
    width = max(len(window.tokens) for window in windows)
    tokens = [[*w.tokens, *[0] * (width - len(w.tokens))] for w in windows]
    real = [[i < len(w.tokens) for i in range(width)] for w in windows]
    return Batch(
        tuple(windows),
        torch.tensor(tokens, device=device),
        torch.tensor(real, device=device).flatten(),
    )


@torch.no_grad()
def _forwards(
    model: StreamedModel, batches: Sequence[Batch], states: Scratch
) -> list[tuple[Keywords, ...]]:
    """Set aside what each layer gets, and what comes out of the last, by layer and batch.

    -> what the layers are called with, by batch
    """
    inputs = [{"input_ids": batch.tokens, "use_cache": False} for batch in batches]
    calls = enter_each(model, inputs, lambda number, hidden: states.put((0, number), hidden))
    for layer in model.filled():
        for number, call in enumerate(calls):
            hidden = model.run(layer, states.get((layer.number, number)), call)
            states.put((layer.number + 1, number), hidden)
            model.passed(int(batches[number].real.sum()) / len(model.layers))
        model.passed(FILLING / len(model.layers))
    return calls


def _score(
    model: StreamedModel, task: StatisticsTask, batches: Sequence[Batch], states: Scratch
) -> int:
    """Set aside the gradients of what comes out of the last layer, by batch. -> scored positions"""
    generator = torch.Generator().manual_seed(0)
    num_scored = 0
    with model.ends():
        for number, batch in enumerate(batches):
            hidden = _leaf(model, states.get((len(model.layers), number)))
            logits = model.leave(hidden)  # (B, T, V)
            predicted = [
                logits[i, w.first_scored - 1 : len(w.tokens) - 1].float()
                for i, w in enumerate(batch.windows)
            ]
            scores = functional.log_softmax(torch.cat(predicted), -1)  # (scored, V)
            if not bool(scores.isfinite().all()):
                raise Refused(f"{task.checkpoint.directory}: gives values that are not finite")
            drawn = _drawn(scores.detach().exp(), generator)
            scores.gather(1, drawn).sum().backward()
            states.put(("gradient", number), _gradient(hidden))
            num_scored += len(scores)
    return num_scored


def _drawn(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A token of each position: what torch.multinomial draws on the CPU. (n, V) -> (n, 1)

    The chance comes from the host, so a device draws what the CPU would, but for rounding.
    """
    chance = torch.empty(probabilities.shape).exponential_(1, generator=generator)
    return (probabilities / chance.to(probabilities.device)).argmax(-1, keepdim=True)


def _backwards(
    model: StreamedModel,
    layer: Layer,
    batches: Sequence[Batch],
    calls: Sequence[tuple[Keywords, ...]],
    states: Scratch,
) -> Record | None:
    """Carry the gradients of all batches back through a layer. -> sums over its experts' tokens"""
    record = None
    if layer.experts is not None:
        experts = model.experts_module(layer.experts)
        record = experts.statistics = Record(experts, model.device)
    for number, batch in enumerate(batches):
        hidden = _leaf(model, states.get((layer.number, number)))
        if record is not None:
            record.real = batch.real
        out = model.run(layer, hidden, calls[number])
        out.backward(states.get(("gradient", number)).to(model.device))
        states.put(("gradient", number), _gradient(hidden))
        model.passed(BACKWARDS * int(batch.real.sum()) / len(model.layers))
    model.passed(BACKWARDS * FILLING / len(model.layers))
    return record


def _leaf(model: StreamedModel, hidden: torch.Tensor) -> torch.Tensor:
    return hidden.detach().to(model.device).requires_grad_()


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    assert leaf.grad is not None
    return leaf.grad

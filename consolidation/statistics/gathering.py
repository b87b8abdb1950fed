"""Gathers statistics: what each expert gets as input, and how much its output moves the logits.

One task per model. transformers' own model, in float32 and one layer at a time, runs over
calibration windows; at every scored position a token is drawn from the model's own prediction, and
the gradient of its log-probability is taken. The inputs of all layers are set aside on the way
forwards; on the way back each layer is filled once more, and computes what it computed again.
Second moments of inputs and gradients make the metrics of `consolidation/arithmetic/metric.py`;
`statistics/stored.py` keeps them. One thread computes a batch, and one computes an expert for all
batches, several at a time: sums have one order, since the digest of a release depends on them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from consolidation.arithmetic.on_device import CPU, same_sums
from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.errors import Refused
from consolidation.run.executor import Tell, tell_nobody
from consolidation.statistics.going_back import (
    GoingBack,
    gradient_of,
    leaf_of,
)
from consolidation.statistics.moments import Record
from consolidation.statistics.probing import probe, probing_work
from consolidation.statistics.scoring import inputs_of_rows
from consolidation.statistics.stored import StatisticsStore
from consolidation.statistics.windows import Window
from consolidation.walk.course import FILLING, Course
from consolidation.walk.forward import HELD_BYTES
from consolidation.walk.layers import Layer
from consolidation.walk.scratch import Scratch
from consolidation.walk.side_by_side import Mapped, SideBySide, one_thread_each
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights
from representation.formats import Packed

BATCH_TOKENS = 512
BACKWARDS = 4
"""A layer takes so many times as long backwards as forwards."""
HEAD_TOKENS = 128
"""Positions that have logits at a time: with gradients they may take as much as a layer."""


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
    """Windows side by side: as the stock forward gets them, and which of their tokens are not
    there to fill up, (B * T,) in each list of layers.
    """

    windows: tuple[Window, ...]
    inputs: dict[str, Any]
    real: tuple[torch.Tensor, ...]


def gather(task: StatisticsTask, tell: Tell = tell_nobody) -> dict[str, Any]:
    """Keep a model's statistics. -> by rounding, the cost predicted and the divergence measured

    Raises `Refused` when the model gives values that are not finite.
    """
    course = Course(tell, _work(task))
    with same_sums(task.device), one_thread_each(task.device, len(task.windows)) as mapped:
        model = StreamedModel(CheckpointWeights(task.checkpoint), task.device, course.passed)
        _keep_metrics(model, task, mapped)
        factor, probes = probe(model, task.name, task.probes, task.roundings, task.store, mapped)
    task.store.keep_factor(task.name, factor)
    return {"model": task.name, "probes": probes}


def _work(task: StatisticsTask) -> float:
    """What gathering does, as `walk/course.py` counts it."""
    tokens = sum(window.work for window in task.windows)
    return (1 + BACKWARDS) * (tokens + FILLING) + probing_work(task.probes, task.roundings)


def _keep_metrics(model: StreamedModel, task: StatisticsTask, mapped: Mapped[Any]) -> None:
    """Keep the metrics of all experts, from the last layer to the first."""
    batches = list(batches_of(task.windows, model.device))
    with Scratch(HELD_BYTES) as states:
        inputs = [batch.inputs for batch in batches]
        together = SideBySide(model, inputs, states, mapped, keeps=True)
        for layer in together.layers():
            for number in together.forwards(layer):
                model.passed(int(batches[number].real[layer.in_list].sum()) / len(model.layers))
            model.passed(FILLING / len(model.layers))
        back = GoingBack(together)
        num_scored = _score(back, task.checkpoint.directory, batches)
        for layer in back.layers():
            real = torch.cat([batch.real[layer.in_list] for batch in batches])
            _keep_layer(back, layer, real, task, num_scored)
            model.passed(BACKWARDS * FILLING / len(model.layers))


def _keep_layer(
    back: GoingBack, layer: Layer, real: torch.Tensor, task: StatisticsTask, num_scored: int
) -> None:
    """Go back through a filled layer, and keep the metrics of its experts, if it has any.

    real: (N,), which of the tokens of all batches, one after another, count
    """
    model = back.together.model
    work = BACKWARDS * int(real.sum()) / len(model.layers)
    if layer.experts is None:
        back.through_layer(layer)
        model.passed(work)
        return
    num_experts = model.experts[layer.experts].num_experts
    with Scratch() as kept:
        record = Record(model.device, kept)
        back.through_experts(layer, real, record, work)
        keep = partial(_keep, task, layer.experts, record, num_scored)
        for _ in back.together.mapped(keep, range(num_experts)):
            pass


def _keep(task: StatisticsTask, layer: int, record: Record, num_scored: int, index: int) -> None:
    if record.whole:
        task.store.keep(task.name, layer, index, record.metrics(index, num_scored))


def batches_of(windows: Sequence[Window], device: torch.device) -> Iterator[Batch]:
    """Neighbouring windows, as many as fit side by side into `BATCH_TOKENS`.

    Shorter ones are padded at their ends: no token sees those that come after it. Those of an
    encoder do, so windows beside each other have sources of one length.
    """
    batch: list[Window] = []
    for window in windows:
        width = len(window.source) + max(len(one.tokens) for one in (*batch, window))
        is_full = width * (len(batch) + 1) > BATCH_TOKENS
        if batch and (is_full or len(window.source) != len(batch[0].source)):
            yield _batch(batch, device)
            batch = []
        batch.append(window)
    if batch:
        yield _batch(batch, device)


def _batch(windows: Sequence[Window], device: torch.device) -> Batch:
    width = max(len(window.tokens) for window in windows)
    tokens = [[*w.tokens, *[0] * (width - len(w.tokens))] for w in windows]
    sources = [window.source for window in windows]
    real = [[i < len(w.tokens) for i in range(width)] for w in windows]
    reals = [torch.tensor(real, device=device).flatten()]
    if sources[0]:
        reals.insert(0, reals[0].new_ones(len(sources) * len(sources[0])))
    return Batch(tuple(windows), inputs_of_rows(tokens, sources, device), tuple(reals))


def _score(back: GoingBack, directory: Path, batches: Sequence[Batch]) -> int:
    """Begin with the gradients of what comes out of the last layer. -> scored positions"""
    model = back.together.model

    def score(number: int) -> int:
        hidden = back.together.out(number).to(model.device)
        gradient = torch.zeros_like(hidden)
        generator = torch.Generator().manual_seed(number)
        num_scored = 0
        for row, window in enumerate(batches[number].windows):
            scored = range(window.first_scored - 1, len(window.tokens) - 1)
            for start in scored[::HEAD_TOKENS]:
                place = (row, slice(start, min(start + HEAD_TOKENS, scored.stop)))
                gradient[place] = _of_draws(model, hidden[place], generator, directory)
            num_scored += len(scored)
        back.begin(number, gradient)
        return num_scored

    with model.ends():
        return sum(back.together.mapped(score, range(len(batches))))


def _of_draws(
    model: StreamedModel, hidden: torch.Tensor, generator: torch.Generator, directory: Path
) -> torch.Tensor:
    """Gradients of the log-probability of a token drawn at each place. (n, H) -> (n, H)

    That of the logits is 1 at the token less the probabilities.
    """
    leaf = leaf_of(hidden[None], model.device)
    logits = model.leave(leaf)  # (1, n, V)
    found = functional.softmax(logits.detach()[0].float(), -1)  # (n, V)
    if not bool(found.isfinite().all()):
        raise Refused(f"{directory}: gives values that are not finite")
    # The chance comes from the host, so a device draws what the CPU would, but for rounding.
    at = torch.rand(len(found), 1, generator=generator).to(found.device)
    sums = found.cumsum(-1)
    drawn = torch.searchsorted(sums, at * sums[:, -1:]).clamp_max(found.shape[1] - 1)  # (n, 1)
    found = found.neg_().scatter_add_(1, drawn, torch.ones_like(at))
    logits.backward(found[None].to(logits.dtype))
    return gradient_of(leaf)[0]

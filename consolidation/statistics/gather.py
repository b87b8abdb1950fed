"""Statistics: what each expert is applied to, and how much of what it gives reaches the logits.

One task per model: transformers' own model, in float32, runs over calibration windows; at every
scored position a token is drawn from what the model itself predicts, and the gradient of its
log-probability taken. Second moments of inputs and gradients make the metrics of
`consolidation/arithmetic/metric.py`, kept as one file per expert. Windows are computed by one
thread, one after another: sums have one order, as they are part of what a release's digest
depends on.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from consolidation.arithmetic.metric import Metric, Samples
from consolidation.arithmetic.rounding import round_matrix
from consolidation.compare.menu import GROUP
from consolidation.errors import Refused, RunFailed
from consolidation.release.storage import open_storage
from consolidation.release.tensors import decode_tensors, encode_tensors
from consolidation.statistics.moments import Record
from consolidation.statistics.scoring import divergence, load_original, window_logits
from consolidation.statistics.text import Window
from representation.formats import Format, packed

FUNCTION = "expertpool_statistics"
BATCH_TOKENS = 512
PROBES = (packed(6, GROUP), packed(3, GROUP))
"""Roundings, finest first, by which foretold divergences are set right."""
PROBE_TOKENS = 8192
MOST_OFF = 30.0


@dataclass(frozen=True, slots=True)
class StatisticsStore:
    """Where statistics are: a storage's address, and a directory in it."""

    url: str
    directory: str

    def metric(self, model: str, layer: int, index: int, name: str) -> Metric:
        """The metric of one matrix of one expert. Raises `RunFailed` when it is not there."""
        found = _read(self, model, layer, index)
        inputs = found[f"{name}.inputs"]
        return Metric(
            gain=found[f"{name}.gain"],
            moments=found[f"{name}.moments"],
            num_columns=inputs.shape[1],
            samples=Samples(inputs, found[f"{name}.gradients"], float(found[f"{name}.trust"])),
        )

    def path(self, model: str, layer: int, index: int) -> str:
        """The file of one expert, relative to the storage."""
        return f"{self.directory}/statistics/{model}/{layer}/{index}.safetensors"

    def there(self, model: str, experts: Sequence[int]) -> bool:
        """Whether all of a model's statistics have been gathered. experts: how many, by layer."""
        storage = open_storage(self.url)
        return all(
            storage.size(self.path(model, layer, index)) is not None
            for layer, num_experts in enumerate(experts)
            for index in range(num_experts)
        )


@dataclass(frozen=True, slots=True)
class Response:
    """The divergence that an error of some cost causes: linear * cost + root * cost ** 0.5.

    To second order it is the cost itself; but where a router is undecided any error may choose
    another expert, so often as the error is large, and what that changes does not grow with it.
    """

    linear: float = 1.0
    root: float = 0.0

    def __call__(self, cost: float) -> float:
        return self.linear * cost + self.root * math.sqrt(max(0.0, cost))


@dataclass(frozen=True, slots=True)
class StatisticsTask:
    """One model, the windows that its statistics are gathered on, and others to try them on."""

    name: str
    directory: Path
    modules: tuple[str, ...]
    windows: tuple[Window, ...]
    probes: tuple[Window, ...]
    store: StatisticsStore


def gather(task: StatisticsTask) -> dict[str, Any]:
    """Write a model's statistics; the costs foretold for roundings, finest first, and what
    divergence each has caused.

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
    before = model.config._experts_implementation
    model.requires_grad_(False)
    records = []
    for module in task.modules:
        experts = model.get_submodule(module)
        experts.statistics = Record(experts)
        records.append(experts.statistics)
    model.set_experts_implementation(FUNCTION)
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, __, output: output.requires_grad_()
    )
    generator = torch.Generator().manual_seed(0)
    num_scored = sum(_run(model, batch, records, generator) for batch in _batches(task.windows))
    hook.remove()
    model.set_experts_implementation(before)
    metrics = [record.metrics(num_scored) for record in records]
    factor, probes = _probe(model, task, metrics)
    storage = open_storage(task.store.url)
    for layer, found in enumerate(metrics):
        for index in range(len(next(iter(found.values()), ()))):
            tensors: dict[str, torch.Tensor] = {}
            for name, by_expert in found.items():
                tensors |= _tensors(name, by_expert[index].scaled(factor))
            storage.write(task.store.path(task.name, layer, index), encode_tensors(tensors))
    return probes


def _tensors(name: str, metric: Metric) -> dict[str, torch.Tensor]:
    """What is kept of the metric of one matrix."""
    samples = metric.samples
    if samples is None:
        raise AssertionError("metrics of statistics have samples")
    return {
        f"{name}.gain": metric.gain,
        f"{name}.moments": metric.moments,
        f"{name}.inputs": samples.inputs,
        f"{name}.gradients": samples.gradients,
        f"{name}.trust": torch.tensor(samples.trust),
    }


def _batches(windows: Sequence[Window]) -> Iterator[list[Window]]:
    """Neighbouring windows, as many as take no more than `BATCH_TOKENS` side by side."""
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
    """Windows side by side, forwards and backwards. -> scored positions

    Shorter ones are filled up at their ends: no token sees those that come after it.
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
    """Divergences that rounding all experts really causes, beside the costs foretold.

    Measured on windows that the statistics have not seen. -> what metrics are to be multiplied
    by, which makes them right for coarse rounding; and (cost, divergence) with metrics so set.
    """
    windows = list(_some(task.probes))
    before = [window_logits(model, window) for window in windows]
    found = []
    for fmt in PROBES:
        foretold = _round_experts(model, task.modules, metrics, fmt)
        pairs = zip(before, windows, strict=True)
        total = math.fsum(divergence(one, window_logits(model, w)) for one, w in pairs)
        found.append((foretold, max(0.0, total / sum(len(logits) for logits in before))))
    most, measured = found[-1]
    factor = 1.0
    if most > 0 and measured > 0:
        factor = min(MOST_OFF, max(1 / MOST_OFF, measured / most))
    return factor, [(factor * cost, kl) for cost, kl in found]


def responses(probes: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Response]:
    """The models' responses, by their (cost, divergence) of a fine and a coarse rounding.

    How often routers tip is a property of the family: models share the root, the median of
    theirs, as few windows show so few such events that one model's own tells little.
    """
    own = [_root(*found) for found in probes.values()]
    root = statistics.median(own) if own else 0.0
    return {model: _through(found[-1], root) for model, found in probes.items()}


def _root(fine: tuple[float, float], coarse: tuple[float, float]) -> float:
    """The root's factor of the response that gives both; none where one cannot tell."""
    (cost, found), (other_cost, other) = fine, coarse
    if not (0 < cost < other_cost and found > 0 and other > 0):
        return 0.0
    small, large = math.sqrt(cost), math.sqrt(other_cost)
    linear = (other / large - found / small) / (large - small)
    return max(0.0, found / small - max(0.0, linear) * small)


def _through(coarse: tuple[float, float], root: float) -> Response:
    """The response with this root that gives the coarse rounding's divergence, or more."""
    cost, found = coarse
    if not (cost > 0 and found > 0):
        return Response(1.0, root)
    return Response(max(0.0, (found - root * math.sqrt(cost)) / cost), root)


def _round_experts(
    model: Any, modules: Sequence[str], metrics: Sequence[dict[str, list[Metric]]], fmt: Format
) -> float:
    """Round all experts of a model, in place. -> the cost foretold"""
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
    """Windows from all over, of about as many tokens as a probe takes."""
    num_tokens = sum(len(window.tokens) for window in windows)
    yield from windows[:: max(1, round(num_tokens / PROBE_TOKENS))]


@lru_cache(16)
def _read(store: StatisticsStore, model: str, layer: int, index: int) -> dict[str, torch.Tensor]:
    data = open_storage(store.url).read(store.path(model, layer, index))
    if data is None:
        raise RunFailed(f"statistics of model {model!r}, layer {layer}, expert {index} are gone")
    return decode_tensors(data)


def _experts_forward(
    experts: Any, hidden: torch.Tensor, *args: torch.Tensor, **kwargs: torch.Tensor
) -> torch.Tensor:
    """The experts interface's function: each expert by itself, its products watched.

    hidden: (T, H)   index, weights: (T, K)  ->  (T, H)
    """
    index, weights = [*args, *kwargs.values()]
    out = torch.zeros_like(hidden)
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    for expert in index.unique().tolist():
        tokens, places = torch.where(index == expert)
        x = _product(experts, first, expert, tokens, hidden[tokens])
        x = experts._apply_gate(x) if experts.has_gate else experts.act_fn(x)
        x = _product(experts, "down_proj", expert, tokens, x)
        out = out.index_add(0, tokens, (x * weights[tokens, places, None]).to(out.dtype))
    return out


def _product(
    experts: Any, name: str, expert: int, tokens: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    weight = getattr(experts, name)[expert]
    out: torch.Tensor = x @ (weight if experts.is_transposed else weight.T)
    experts.statistics.watch(name, expert, tokens, x, out)
    return out + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else out


ALL_EXPERTS_FUNCTIONS.register(FUNCTION, _experts_forward)

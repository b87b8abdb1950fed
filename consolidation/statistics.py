"""Statistics: what each expert is applied to, and how much of what it gives reaches the logits.

One task per model: transformers' own model, in float32, runs over calibration windows; at every
scored position a token is drawn from what the model itself predicts, and the gradient of its
log-probability taken. Second moments of inputs and gradients make the metrics of
`consolidation/metric.py`, kept as one file per layer. Windows are computed by one thread, one
after another: sums have one order, as they are part of what a release's digest depends on.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from consolidation.calibration import Window
from consolidation.errors import Failed, Refused
from consolidation.metric import Metric, block_size, in_blocks
from consolidation.release.storage import open_storage
from consolidation.release.tensors import decode_tensors, encode_tensors
from consolidation.scoring import divergence, load_original, window_logits

FUNCTION = "expertpool_statistics"
FEW_SCORED, DRAWS = 4, 4
"""Windows with at most so many scored positions are drawn for so often: else chance is felt."""
PRIOR_TOKENS = 64
"""An expert's moments count as if it had seen so many tokens more, of its layer's average."""
PROBES = (0.01, 0.05)
"""Sizes of noise, over the weights' own, by which foretold divergences are set right."""
PROBE_TOKENS = 8192
MOST_OFF = 30.0


@dataclass(frozen=True, slots=True)
class StatisticsPlace:
    """Where statistics are: a storage's address, and a directory in it."""

    url: str
    directory: str

    def metric(self, model: str, layer: int, index: int, name: str) -> Metric:
        """The metric of one matrix of one expert. Raises `Failed` when it is not there."""
        found = _read(self, model, layer)
        return Metric(
            found[f"{name}.gain"][index],
            found[f"{name}.moments"][index],
            int(found[f"{name}.columns"]),
        )

    def path(self, model: str, layer: int) -> str:
        """The file of one layer of one model, relative to the storage."""
        return f"{self.directory}/statistics/{model}/{layer}.safetensors"

    def there(self, model: str, num_layers: int) -> bool:
        """Whether all of a model's statistics have been gathered."""
        storage = open_storage(self.url)
        return all(storage.size(self.path(model, i)) is not None for i in range(num_layers))


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
    """One model, and the windows that its statistics are gathered on."""

    name: str
    directory: Path
    modules: tuple[str, ...]
    windows: tuple[Window, ...]
    place: StatisticsPlace


def gather(task: StatisticsTask) -> dict[str, Any]:
    """Write a model's statistics; the fields of its `Response`.

    Raises `Refused` when the model gives values that are not finite.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"model": task.name, **asdict(_gather(task))}
    finally:
        torch.set_num_threads(threads)


def _gather(task: StatisticsTask) -> Response:
    model = load_original(task.directory)
    before = model.config._experts_implementation
    model.requires_grad_(False)
    records = []
    for module in task.modules:
        experts = model.get_submodule(module)
        experts.statistics = _Record(experts)
        records.append(experts.statistics)
    model.set_experts_implementation(FUNCTION)
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, __, output: output.requires_grad_()
    )
    generator = torch.Generator().manual_seed(0)
    num_scored = sum(_run(model, window, generator) for window in task.windows)
    hook.remove()
    model.set_experts_implementation(before)
    metrics = [record.metrics(num_scored) for record in records]
    factor, response = _probe(model, task, metrics)
    storage = open_storage(task.place.url)
    for layer, found in enumerate(metrics):
        tensors: dict[str, torch.Tensor] = {}
        for name, by_expert in found.items():
            tensors[f"{name}.gain"] = torch.stack([m.gain for m in by_expert]) * factor
            tensors[f"{name}.moments"] = torch.stack([m.moments for m in by_expert])
            tensors[f"{name}.columns"] = torch.tensor(by_expert[0].num_columns)
        storage.write(task.place.path(task.name, layer), encode_tensors(tensors))
    return response


def _run(model: Any, window: Window, generator: torch.Generator) -> int:
    """One window, forwards and backwards. -> scored positions"""
    tokens = torch.tensor([window.tokens])
    logits = model(input_ids=tokens, use_cache=False).logits[0]  # (T, V)
    scores = functional.log_softmax(logits[window.first_scored - 1 : -1].float(), -1)
    if not bool(scores.isfinite().all()):
        raise Refused(f"{model.config._name_or_path}: gives values that are not finite")
    num_draws = DRAWS if len(scores) <= FEW_SCORED else 1
    for draw in range(num_draws):
        drawn = torch.multinomial(scores.detach().exp(), 1, generator=generator)
        loss = scores.gather(1, drawn).sum() / math.sqrt(num_draws)
        loss.backward(retain_graph=draw + 1 < num_draws)
    return len(scores)


class _Record:
    """Sums over the tokens of one layer's experts, by matrix."""

    def __init__(self, experts: Any) -> None:
        self._num_experts: int = experts.num_experts
        self._sums: dict[str, list[_Sums]] = {}

    def watch(self, name: str, expert: int, x: torch.Tensor, y: torch.Tensor) -> None:
        """Count a product of some tokens when its gradient comes. x: (n, I)   y: (n, O)"""
        if y.requires_grad:
            x = x.detach()
            y.register_hook(lambda gradient: self._add(name, expert, x, gradient))

    def _add(self, name: str, expert: int, x: torch.Tensor, gradient: torch.Tensor) -> None:
        if name not in self._sums:
            shape = (gradient.shape[1], x.shape[1])
            self._sums[name] = [_Sums(shape) for _ in range(self._num_experts)]
        self._sums[name][expert].add(x, gradient)

    def metrics(self, num_scored: int) -> dict[str, list[Metric]]:
        """The metrics of all experts, by matrix; cost is in nats per scored token."""
        found = {}
        for name, sums in self._sums.items():
            layer = _Sums(sums[0].shape)
            for one in sums:
                layer.include(one)
            found[name] = [one.metric(layer, num_scored) for one in sums]
        return found


class _Sums:
    """Sums over tokens of one matrix: moments of inputs, plainly and by gradient; gradients."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        size = block_size(shape[1])
        num_blocks = -(-shape[1] // size)
        self.plain = torch.zeros(num_blocks, size, size)
        self.weighed = torch.zeros(num_blocks, size, size)
        self.gain = torch.zeros(shape[0])
        self.tokens = 0

    def add(self, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """x: (n, I)   gradient: (n, O)"""
        square = gradient.square()
        blocks = in_blocks(x, self.shape[1])  # (B, n, b)
        self.plain += blocks.transpose(1, 2) @ blocks
        self.weighed += (blocks * square.sum(1)[:, None]).transpose(1, 2) @ blocks
        self.gain += square.sum(0)
        self.tokens += len(x)

    def include(self, other: "_Sums") -> None:
        self.plain += other.plain
        self.weighed += other.weighed
        self.gain += other.gain
        self.tokens += other.tokens

    def metric(self, layer: "_Sums", num_scored: int) -> Metric:
        """The metric of one expert; what it has seen little of is taken from its layer.

        Inputs are averaged half plainly, half by the gradients that they met: the latter is what
        counts, the former is known better.
        """
        mean_gain = layer.gain / max(1, layer.tokens)
        plain = _mean(self.plain, self.tokens, layer.plain, layer.tokens, PRIOR_TOKENS)
        prior_weight = PRIOR_TOKENS * float(mean_gain.sum())
        weighed = _mean(
            self.weighed,
            float(self.gain.sum()),
            layer.weighed,
            float(layer.gain.sum()),
            prior_weight,
        )
        sizes = _trace(weighed), _trace(plain)
        moments = weighed + plain * (sizes[0] / sizes[1] if sizes[1] else 1.0)
        rest = self.shape[1] % moments.shape[1]
        if rest:  # Features beyond the last have moment 1 with themselves.
            moments[-1].diagonal()[rest:] = 1.0
        return Metric((self.gain + mean_gain) / (2 * num_scored), moments / 2, self.shape[1])


def _mean(
    own: torch.Tensor, own_weight: float, layer: torch.Tensor, layer_weight: float, prior: float
) -> torch.Tensor:
    if not layer_weight:
        return torch.zeros_like(own)
    return (own + layer * (prior / layer_weight)) / (own_weight + prior)


def _trace(blocks: torch.Tensor) -> float:
    return float(blocks.diagonal(dim1=1, dim2=2).sum())


def _probe(
    model: Any, task: StatisticsTask, metrics: Sequence[dict[str, list[Metric]]]
) -> tuple[float, Response]:
    """Divergences that noise in all experts really causes, over those foretold.

    -> what metrics are to be multiplied by, which makes them right for little noise; and the
    response to what they foretell then.
    """
    windows = list(_some(task.windows))
    before = [window_logits(model, window) for window in windows]
    noise = _Noise(model, task.modules, metrics)
    found = []
    for size in PROBES:
        foretold = noise.put(size)
        pairs = zip(before, windows, strict=True)
        total = math.fsum(divergence(one, window_logits(model, w)) for one, w in pairs)
        found.append((foretold, total / sum(len(logits) for logits in before)))
    (least, measured), (most, at_most) = found
    if not (least > 0 and measured > 0 and at_most > 0):
        return 1.0, Response()
    factor = min(MOST_OFF, max(1 / MOST_OFF, measured / least))
    return factor, response_to((factor * least, measured), (factor * most, at_most))


def response_to(less: tuple[float, float], more: tuple[float, float]) -> Response:
    """The response that gives two measured divergences: (cost, divergence) of each, all above 0."""
    (cost, found), (other_cost, other) = less, more
    root, other_root = math.sqrt(cost), math.sqrt(other_cost)
    linear = (other / other_root - found / root) / (other_root - root)
    rest = found / root - linear * root
    if linear < 0:
        return Response(0.0, found / root)
    return Response(linear, rest) if rest >= 0 else Response(found / cost, 0.0)


class _Noise:
    """The same noise in all experts of a model, of any size."""

    def __init__(
        self, model: Any, modules: Sequence[str], metrics: Sequence[dict[str, list[Metric]]]
    ) -> None:
        self._experts = [model.get_submodule(module) for module in modules]
        self._metrics = metrics
        self._there = 0.0

    def put(self, size: float) -> float:
        """Let the weights have noise of this size, over their own. -> the cost foretold"""
        cost = 0.0
        generator = torch.Generator().manual_seed(0)
        for experts, found in zip(self._experts, self._metrics, strict=True):
            for name, by_expert in found.items():
                parameter = getattr(experts, name)
                for index, metric in enumerate(by_expert):
                    weights = parameter[index]
                    noise = torch.randn(weights.shape, generator=generator)
                    # As large as before any noise was put: that adds little to the square.
                    noise *= float(weights.square().mean().sqrt())
                    weights += noise * (size - self._there)
                    noise *= size
                    cost += metric.cost(noise.T if experts.is_transposed else noise)
        self._there = size
        return cost


def _some(windows: Sequence[Window]) -> Iterator[Window]:
    """Windows from all over, of about as many tokens as a probe takes."""
    num_tokens = sum(len(window.tokens) for window in windows)
    yield from windows[:: max(1, round(num_tokens / PROBE_TOKENS))]


@lru_cache(4)
def _read(place: StatisticsPlace, model: str, layer: int) -> dict[str, torch.Tensor]:
    path = place.path(model, layer)
    data = open_storage(place.url).read(path)
    if data is None:
        raise Failed(f"statistics of model {model!r}, layer {layer} are gone")
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
        x = _product(experts, first, expert, hidden[tokens])
        x = experts._apply_gate(x) if experts.has_gate else experts.act_fn(x)
        x = _product(experts, "down_proj", expert, x)
        out = out.index_add(0, tokens, (x * weights[tokens, places, None]).to(out.dtype))
    return out


def _product(experts: Any, name: str, expert: int, x: torch.Tensor) -> torch.Tensor:
    weight = getattr(experts, name)[expert]
    out: torch.Tensor = x @ (weight if experts.is_transposed else weight.T)
    experts.statistics.watch(name, expert, x, out)
    return out + getattr(experts, f"{name}_bias")[expert] if experts.has_bias else out


ALL_EXPERTS_FUNCTIONS.register(FUNCTION, _experts_forward)

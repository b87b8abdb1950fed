import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from consolidation.arithmetic.metric import BLOCK, Samples
from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.errors import Refused, RunFailed
from consolidation.statistics.gathering import HEAD_TOKENS, StatisticsTask, batches_of, gather
from consolidation.statistics.moments import Record, Sums
from consolidation.statistics.scoring import divergence
from consolidation.statistics.stored import ModelStatistics, StatisticsStore
from consolidation.statistics.windows import Window
from consolidation.walk.scratch import Scratch
from representation.formats import Packed
from tests.support.checkpoints import write_checkpoint
from tests.support.whole_models import load_original, window_logits


def some_windows(count: int, length: int, seed: int = 0) -> tuple[Window, ...]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 300, (count, length), generator=generator)
    return tuple(Window((1, *row), 1 + i % 3) for i, row in enumerate(tokens.tolist()))


def task_of(checkpoint: Checkpoint, store: StatisticsStore) -> StatisticsTask:
    return StatisticsTask(
        name="m",
        checkpoint=checkpoint,
        windows=some_windows(8, 60),
        probes=some_windows(4, 60, seed=1),
        roundings=(Packed(6, 128), Packed(3, 128)),
        store=store,
    )


def gathered(
    checkpoint: Checkpoint, root: Path
) -> tuple[StatisticsStore, list[tuple[float, float]]]:
    store = StatisticsStore({"m": ModelStatistics(str(root), "work")})
    found = gather(task_of(checkpoint, store))
    assert found["model"] == "m"
    return store, found["probes"]


def measured(model: Any, windows: tuple[Window, ...], before: list[torch.Tensor]) -> float:
    total = sum(
        divergence(one, window_logits(model, window))
        for one, window in zip(before, windows, strict=True)
    )
    return total / sum(len(logits) for logits in before)


ALL_EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_experts_per_tok": 4},
    "qwen3_moe": {"num_experts_per_tok": 8},
    "gpt_oss": {"num_experts_per_tok": 4},
    "deepseek_v3": {"num_experts_per_tok": 8, "topk_group": 2},
}
"""Every token uses all experts: no noise makes a router choose others."""


@pytest.mark.parametrize("architecture", sorted(ALL_EXPERTS))
def test_a_metric_predicts_what_little_noise_does(architecture: str, tmp_path: Path) -> None:
    path = write_checkpoint(
        tmp_path / "m", architecture, tokenizer=False, **ALL_EXPERTS[architecture]
    )
    checkpoint = open_checkpoint(path)
    store, _ = gathered(checkpoint, tmp_path)
    model = load_original(checkpoint.directory)
    windows = some_windows(6, 60, seed=2)
    before = [window_logits(model, window) for window in windows]
    ratios = []
    for layer, source in enumerate(checkpoint.experts):
        module = model.get_submodule(source.module)
        for name in source.shape.matrices:
            parameter = getattr(module, name)
            kept = parameter.detach().clone()
            noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(layer))
            noise *= 0.003 * kept.std()
            with torch.no_grad():
                parameter += noise
            found = measured(model, windows, before)
            with torch.no_grad():
                parameter.copy_(kept)
            cost = 0.0
            for index, error in enumerate(noise):
                upright = error.T if source.shape.transposed else error
                cost += store.metric("m", layer, index, name).cost(upright)
            ratios.append(found / cost)
    assert all(1 / 4 < ratio < 4 for ratio in ratios), ratios
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    assert 1 / 2 < mean < 2, ratios


Products = list[tuple[int, torch.Tensor, dict[str, tuple[torch.Tensor, torch.Tensor]]]]
"""An expert, its tokens, and what its matrices were given and gave, by matrix."""


def noted(products: Products) -> Callable[..., torch.Tensor]:
    """A layer's experts as torch alone computes them, with gradients of what products give."""

    def forward(experts: Any, hidden: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        index, weights = args
        out = torch.zeros_like(hidden)
        first = "gate_up_proj" if experts.has_gate else "up_proj"
        for expert in index.unique().tolist():
            tokens, places = (index == expert).nonzero(as_tuple=True)
            own: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
            x = hidden[tokens]
            for name in (first, "down_proj"):
                weight = getattr(experts, name)[expert]
                given = x
                x = given @ (weight if experts.is_transposed else weight.T)
                if experts.has_bias:
                    x = x + getattr(experts, f"{name}_bias")[expert]
                x.retain_grad()
                own[name] = given.detach(), x
                if name == first:
                    x = experts._apply_gate(x)
            products.append((expert, tokens, own))
            out = out.index_add(0, tokens, x * weights[tokens, places, None])
        return out

    return forward


def whole_metrics(model: Any, modules: list[str], task: StatisticsTask) -> list[list[Any]]:
    """Metrics by layer, expert and matrix, of a model that is run whole, a batch at a time."""
    model.requires_grad_(False)
    model.get_input_embeddings().register_forward_hook(lambda _, __, out: out.requires_grad_())
    layers: list[Products] = [[] for _ in modules]
    for path, products in zip(modules, layers, strict=True):
        experts = model.get_submodule(path)
        experts.forward = partial(noted(products), experts)
    num_scored = 0
    of_layers: list[dict[int, dict[str, list[Any]]]] = [{} for _ in modules]
    for number, batch in enumerate(batches_of(task.windows, torch.device("cpu"))):
        generator = torch.Generator().manual_seed(number)
        logits = model(**batch.inputs).logits
        total = torch.zeros(())
        for row, window in zip(logits, batch.windows, strict=True):
            scores = row[window.first_scored - 1 : len(window.tokens) - 1].log_softmax(-1)
            for part in scores.split(HEAD_TOKENS):
                at = torch.rand(len(part), 1, generator=generator)
                drawn = torch.searchsorted(part.detach().exp().cumsum(-1), at)
                total = total + part.gather(1, drawn.clamp_max(part.shape[1] - 1)).sum()
            num_scored += len(scores)
        total.backward()
        for products, found in zip(layers, of_layers, strict=True):
            for expert, tokens, own in products:
                real = batch.real[0][tokens]
                for name, (given, gave) in own.items():
                    pairs = found.setdefault(expert, {}).setdefault(name, [])
                    assert gave.grad is not None
                    pairs.append((given[real], gave.grad[real]))
            products.clear()
    return [
        metrics_of(found, model.get_submodule(path).num_experts, num_scored)
        for found, path in zip(of_layers, modules, strict=True)
    ]


def metrics_of(
    found: dict[int, dict[str, list[Any]]], num_experts: int, num_scored: int
) -> list[Any]:
    with Scratch() as kept:
        record = Record(torch.device("cpu"), kept)
        for expert, by_name in found.items():
            pairs = {name: list(zip(*parts, strict=True)) for name, parts in by_name.items()}
            sums = {name: Sums.of(*map(torch.cat, both)) for name, both in pairs.items()}
            record.keep(expert, sums)
            record.add(sums)
        return [record.metrics(expert, num_scored) for expert in range(num_experts)]


@pytest.mark.parametrize("architecture", ["mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3"])
def test_statistics_are_those_of_the_whole_model_but_for_rounding(
    architecture: str, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "m", architecture, tokenizer=False))
    store = StatisticsStore({"m": ModelStatistics(str(tmp_path), "work")})
    windows = (*some_windows(8, 60), *some_windows(3, 200), *some_windows(2, 9))
    task = replace(task_of(checkpoint, store), windows=windows)
    gather(task)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    modules = [source.module for source in checkpoint.experts]
    wanted = whole_metrics(load_original(checkpoint.directory), modules, task)
    torch.set_num_threads(threads)
    for layer, source in enumerate(checkpoint.experts):
        assert len(wanted[layer]) == source.num_experts
        for index, metrics in enumerate(wanted[layer]):
            assert set(metrics) == set(source.shape.matrices)
            kept = store.unscaled("m", layer, index, metrics)
            for name, metric in metrics.items():
                found = kept[name]
                assert_close(found.gain, metric.gain, rtol=1e-3, atol=0)
                # Off the diagonal, terms cancel.
                most = float(metric.moments.abs().max())
                assert_close(found.moments, metric.moments, rtol=1e-3, atol=1e-5 * most)
                assert found.samples is not None
                # Samples are in bfloat16; tokens that matter alike may change places.
                for ours, whole in zip(sums(found.samples), sums(metric.samples), strict=True):
                    assert_close(ours, whole, rtol=1e-2, atol=5e-3 * float(whole.abs().max()))


def sums(samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    """What does not depend on the order of samples: of inputs, and of gradients with inputs."""
    return samples.inputs.T @ samples.inputs, samples.gradients.T @ samples.inputs


def test_statistics_are_the_same_however_many_threads_there_are(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "m", "mixtral", num_hidden_layers=1))
    store, response = gathered(checkpoint, tmp_path / "a")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        other, again = gathered(checkpoint, tmp_path / "b")
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    assert response == again
    (source,) = checkpoint.experts
    for index in range(source.num_experts):
        path = store.models["m"].path(0, index)
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert store.there("m", [source.num_experts])
    assert not store.there("m", [source.num_experts, 1])
    with pytest.raises(RunFailed, match="statistics of model 'm', layer 1, expert 0 are gone"):
        other.metric("m", 1, 0, "down_proj")


def test_experts_that_no_token_reached_are_judged_by_their_layer(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", "mixtral", num_hidden_layers=1)
    tensors = load_file(path / "model.safetensors")
    (gate,) = [name for name in tensors if name.endswith("gate.weight")]
    tensors[gate][:2] *= 30.0
    tensors[gate][3] = 0.0  # Of two that are large and opposed one is nearly always before it.
    tensors[gate][1] = -tensors[gate][0]
    tensors[gate][2] = tensors[gate][0] * 0.9
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    store, _ = gathered(open_checkpoint(path), tmp_path)
    for name in ("gate_up_proj", "down_proj"):
        for index in range(4):
            metric = store.metric("m", 0, index, name)
            assert bool((metric.gain > 0).all())
            assert bool((metric.spreads_of(metric.roots()) > 0).all())
            assert bool(metric.inverse_roots(0.01).isfinite().all())


def test_features_beyond_a_block_have_moments_of_their_own(tmp_path: Path) -> None:
    wide = BLOCK + 8
    path = write_checkpoint(tmp_path / "m", "mixtral", num_hidden_layers=1, intermediate_size=wide)
    store, _ = gathered(open_checkpoint(path), tmp_path)
    metric = store.metric("m", 0, 0, "down_proj")
    assert metric.moments.shape == (2, BLOCK, BLOCK)
    assert metric.num_columns == wide
    filled = metric.moments[1, 8:, 8:]
    assert torch.equal(filled, torch.eye(BLOCK - 8))
    assert not metric.moments[1, :8, 8:].any()


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", "mixtral", num_hidden_layers=1)
    tensors = load_file(path / "model.safetensors")
    tensors["lm_head.weight"][:] = math.nan
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match="not finite"):
        gathered(open_checkpoint(path), tmp_path)

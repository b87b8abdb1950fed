"""Statistics of an encoder–decoder, gathered a layer at a time, are those of the stock model."""

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.statistics.gathering import HEAD_TOKENS, StatisticsTask, batches_of, gather
from consolidation.statistics.stored import ModelStatistics, StatisticsStore
from consolidation.statistics.windows import Window
from representation.formats import Packed
from tests.consolidation.statistics.test_gathering import metrics_of, sums
from tests.support.checkpoints import ENCODER_DECODERS, write_checkpoint
from tests.support.whole_encoder_decoders import load_without_decoder_capacity, windows_of

CPU = torch.device("cpu")
NAMES = {"wi": "up_proj", "wo": "down_proj"}
"""What the stock model calls an expert's matrices, and what we do."""

Given = dict[int, dict[str, list[tuple[torch.Tensor, torch.Tensor]]]]
"""By expert and matrix, what it was given and what it gave."""


def noting(pairs: list[Any], _: nn.Module, args: Any, out: torch.Tensor) -> None:
    out.retain_grad()
    pairs.append((args[0].detach(), out))


def whole_metrics(checkpoint: Checkpoint, windows: tuple[Window, ...]) -> list[list[Any]]:
    """Metrics by layer and expert: each window goes through the stock model alone."""
    model = load_without_decoder_capacity(checkpoint.directory).requires_grad_(False)
    model.shared.requires_grad_()
    layers: list[Given] = []
    for source in checkpoint.experts:
        layers.append(defaultdict(lambda: defaultdict(list)))
        for index, expert in enumerate(model.get_submodule(source.module).values()):
            for stock, name in NAMES.items():
                pairs = layers[-1][index][name]
                expert.get_submodule(stock).register_forward_hook(partial(noting, pairs))
    num_scored = 0
    for number, batch in enumerate(batches_of(windows, CPU)):
        generator = torch.Generator().manual_seed(number)
        for window in batch.windows:
            logits = model(
                input_ids=torch.tensor([window.source]),
                decoder_input_ids=torch.tensor([window.tokens]),
                use_cache=False,
            ).logits[0]
            scores = logits[window.first_scored - 1 : -1].log_softmax(-1)
            for part in scores.split(HEAD_TOKENS):
                at = torch.rand(len(part), 1, generator=generator)
                drawn = torch.searchsorted(part.detach().exp().cumsum(-1), at)
                part.gather(1, drawn.clamp_max(part.shape[1] - 1)).sum().backward(retain_graph=True)
            num_scored += len(scores)
    found = [
        {
            index: {name: [(x, out.grad) for x, out in own] for name, own in by_name.items()}
            for index, by_name in given.items()
            if by_name["up_proj"]
        }
        for given in layers
    ]
    return [metrics_of(one, 4, num_scored) for one in found]


@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_statistics_are_those_of_the_stock_model_but_for_rounding(
    architecture: str, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "m", architecture, tokenizer=False))
    windows = tuple(windows_of(*[(40, 12), (40, 30), (40, 5), (9, 3), (24, 24)] * 3, (1, 200)))
    store = StatisticsStore({"m": ModelStatistics(str(tmp_path), "work")})
    probes = tuple(windows_of((30, 20), (7, 9), seed=1))
    roundings = (Packed(6, 128), Packed(3, 128))
    found = gather(StatisticsTask("m", checkpoint, windows, probes, roundings, store))
    assert all(cost > 0 and kl > 0 for cost, kl in found["probes"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wanted = whole_metrics(checkpoint, windows)
    torch.set_num_threads(threads)
    for layer, source in enumerate(checkpoint.experts):
        assert len(wanted[layer]) == source.num_experts
        for index, metrics in enumerate(wanted[layer]):
            assert set(metrics) == set(source.shape.matrices) == set(NAMES.values())
            kept = store.unscaled("m", layer, index, metrics)
            for name, metric in metrics.items():
                ours = kept[name]
                most = float(metric.moments.abs().max())
                assert_close(ours.gain, metric.gain, rtol=1e-3, atol=0)
                assert_close(ours.moments, metric.moments, rtol=1e-3, atol=1e-5 * most)
                assert ours.samples is not None
                for own, whole in zip(sums(ours.samples), sums(metric.samples), strict=True):
                    assert_close(own, whole, rtol=1e-2, atol=5e-3 * float(whole.abs().max()))


def test_windows_beside_each_other_have_sources_of_one_length() -> None:
    windows = windows_of((40, 12), (40, 30), (9, 3), (40, 5))
    batches = list(batches_of(windows, CPU))
    assert [batch.windows for batch in batches] == [(*windows[:2],), (windows[2],), (windows[3],)]
    assert batches[0].inputs["input_ids"].shape == (2, 40)
    assert batches[0].inputs["decoder_input_ids"].shape == (2, 31)
    of_source, of_tokens = batches[0].real
    assert of_source.tolist() == [True] * 80
    assert of_tokens.tolist() == [*[True] * 13, *[False] * 18, *[True] * 31]

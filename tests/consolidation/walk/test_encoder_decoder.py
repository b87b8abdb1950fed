"""An encoder–decoder that is run a layer at a time gives what the stock model gives.

Its decoder is held to what `generate()` computes: a token at a time, so that no expert of it ever
has too many. The encoder's experts do.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.golden_prompts import golden_logits, golden_of
from consolidation.statistics.routing import NONE, Routes
from consolidation.statistics.scoring import each_window, score
from consolidation.statistics.windows import Window
from consolidation.walk.filling import Filling
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights
from tests.support.checkpoints import ENCODER_DECODERS, loaded, write_checkpoint
from tests.support.whole_encoder_decoders import (
    generated,
    load_without_decoder_capacity,
    window_logits,
    windows_of,
)

LENGTHS = ((5, 9), (40, 20), (17, 33), (40, 1), (1, 6))


@pytest.fixture(scope="module", params=ENCODER_DECODERS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "m"
    return write_checkpoint(path, request.param, tokenizer=False)


@pytest.fixture
def streamed(directory: Path) -> StreamedModel:
    return StreamedModel(CheckpointWeights(open_checkpoint(directory)))


def logits_of(model: StreamedModel, windows: list[Window]) -> list[torch.Tensor]:
    return list(each_window(model, windows, lambda _, logits: logits))


def test_logits_are_those_of_the_stock_model(streamed: StreamedModel, directory: Path) -> None:
    windows = windows_of(*LENGTHS)
    whole = load_without_decoder_capacity(directory)
    for window, logits in zip(windows, logits_of(streamed, windows), strict=True):
        assert logits.shape == (len(window.tokens) - 1, 320)
        assert logits == pytest.approx(window_logits(whole, window), abs=2e-5)


def test_logits_are_those_that_generate_computes_a_token_at_a_time(
    streamed: StreamedModel, directory: Path
) -> None:
    stock = loaded(directory).eval()
    (source,) = (window.source for window in windows_of((40, 1)))
    tokens, wanted = generated(stock, source, 24)
    window = Window((0, *tokens), 1, source)
    (logits,) = logits_of(streamed, [window])
    # generate() itself rules out that an answer ends too early, which is no part of the logits.
    assert logits == pytest.approx(wanted, abs=2e-5)
    # All at once, the stock decoder leaves tokens out.
    assert float((window_logits(stock, window) - wanted).abs().max()) > 0.01


def test_tokens_beyond_the_capacity_have_no_expert_in_the_encoder_alone(
    streamed: StreamedModel,
) -> None:
    windows = windows_of((40, 40))
    routes = Routes(1, len(streamed.experts))
    list(each_window(streamed, windows, lambda *_: None, routes.watch))
    chosen = routes.of(0)
    for experts, own in zip(streamed.experts, chosen, strict=True):
        counts = own[own != NONE].bincount(minlength=4)
        if experts.module.startswith("encoder"):
            assert int(counts.max()) == 4
            assert int((own == NONE).sum()) >= 40 - 4 * 4
        else:
            assert len(own) == int(counts.sum()) == 41
            assert int(counts.max()) > 4


def test_a_golden_prompt_is_answered_as_by_generate(
    streamed: StreamedModel, directory: Path
) -> None:
    (window,) = windows_of((40, 5))
    found = golden_of(streamed, window)
    assert found.prompt == window.source[:16]
    tokens, logits = generated(loaded(directory).eval(), found.prompt, 16)
    assert list(found.tokens) == tokens
    assert len(set(tokens)) > 3
    for top, row in zip(found.top, logits, strict=True):
        assert [value for _, value in top] == pytest.approx(
            [float(row[token]) for token, _ in top], abs=2e-5
        )
    again = golden_logits(streamed, found)
    assert again == pytest.approx(logits, abs=2e-5)


def test_a_model_compared_with_itself_is_equal(streamed: StreamedModel, directory: Path) -> None:
    other = StreamedModel(CheckpointWeights(open_checkpoint(directory)))
    found = score(streamed, windows_of(*LENGTHS), other)
    assert found.tokens == sum(scored for _, scored in LENGTHS)
    assert found.figures is not None
    assert (found.figures.kl, found.figures.same_top) == (0.0, 1.0)


def test_a_layer_without_its_experts_or_what_is_around_them_is_there_at_a_time(
    streamed: StreamedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filled() -> int:
        unique = {t.data_ptr(): t for t in streamed.stock.parameters() if not t.is_meta}
        return sum(t.numel() * t.itemsize for t in unique.values())

    most, put = 0, Filling.put

    def watch(filling: Filling, *arguments: Any) -> None:
        nonlocal most
        put(filling, *arguments)
        most = max(most, filled())

    monkeypatch.setattr(Filling, "put", watch)
    logits_of(streamed, windows_of(*LENGTHS))
    stock = streamed.stock
    table = stock.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    layers = [
        sum(t.numel() for name, t in layer.state_dict().items() if ".experts." not in name)
        for layer in (*stock.encoder.block, *stock.decoder.block)
    ]
    ends = stock.shared.weight.numel() + stock.encoder.final_layer_norm.weight.numel()
    assert most <= 4 * max(max(layers) + table.numel(), ends)
    assert filled() == 0

"""A model that is run a layer at a time gives what the whole one gives, and holds one layer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from consolidation.evaluation.golden_prompts import golden_logits, golden_of
from consolidation.statistics.scoring import each_window
from consolidation.statistics.windows import Window
from consolidation.walk import side_by_side
from consolidation.walk.filling import Filling
from consolidation.walk.forward import forward_each
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights
from tests.support import whole_models
from tests.support.checkpoints import ARCHITECTURES, ENCODER_DECODERS, write_checkpoint
from tests.support.served import AT_ONCE

DECODERS = [*ARCHITECTURES, *(name for name in AT_ONCE if name not in ENCODER_DECODERS)]
LENGTHS = (5, 40, 17, 40)
WHOLE_VECTORS = {"gpt_oss": {"intermediate_size": 32}}
"""torch takes a sigmoid of a tensor's last values, fewer than two vectors, by other code. Rows of a
multiple of 32, as real models have them, leave none, however many rows there are."""


def windows_of(*lengths: int) -> list[Window]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(3, 300, (length,), generator=generator) for length in lengths]
    return [Window(tuple(tokens.tolist()), 2) for tokens in drawn]


def both(directory: Path, architecture: str, **overrides: Any) -> tuple[StreamedModel, Any]:
    """One checkpoint's model, streamed and whole."""
    path = write_checkpoint(directory / "m", architecture, tokenizer=False, **overrides)
    streamed = StreamedModel(CheckpointWeights(open_checkpoint(path)))
    return streamed, whole_models.load_computing_alike(path)


def filled_bytes(model: StreamedModel) -> int:
    tensors = (*model.stock.parameters(), *model.stock.buffers())
    return sum(t.numel() * t.itemsize for t in tensors if not t.is_meta)


@pytest.mark.parametrize("architecture", DECODERS)
def test_logits_are_those_of_the_whole_model_to_the_bit(architecture: str, tmp_path: Path) -> None:
    streamed, whole = both(tmp_path, architecture, **WHOLE_VECTORS.get(architecture, {}))
    windows = windows_of(*LENGTHS)
    found = list(each_window(streamed, windows, lambda _, logits: logits))
    for window, logits in zip(windows, found, strict=True):
        assert torch.equal(logits, whole_models.window_logits(whole, window))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_the_stock_model_but_for_rounding(
    architecture: str, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "m", architecture, tokenizer=False)
    windows = windows_of(*LENGTHS)
    streamed = StreamedModel(CheckpointWeights(open_checkpoint(path)))
    stock = whole_models.load_original(path)
    found = list(each_window(streamed, windows, lambda _, logits: logits))
    for window, logits in zip(windows, found, strict=True):
        assert logits == pytest.approx(whole_models.window_logits(stock, window), abs=2e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_angles_that_depend_on_the_length_are_those_of_each_window(
    kind: str, tmp_path: Path
) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
        rope["original_max_position_embeddings"] = 24
    length = 24 if kind == "dynamic" else 96
    streamed, whole = both(
        tmp_path, "mixtral", head_dim=8, rope_parameters=rope, max_position_embeddings=length
    )
    windows = windows_of(20, 60, 20)
    for _ in range(2):  # what a walk leaves behind does not change the next
        found = list(each_window(streamed, windows, lambda _, logits: logits))
    assert not torch.equal(found[0][:5], found[1][:5])
    for window, logits in zip(windows, found, strict=True):
        assert torch.equal(logits, whole_models.window_logits(whole, window))


@pytest.mark.parametrize("architecture", DECODERS)
def test_a_golden_prompt_is_answered_as_by_the_whole_model(
    architecture: str, tmp_path: Path
) -> None:
    streamed, whole = both(tmp_path, architecture)
    (window,) = windows_of(40)
    found, wanted = golden_of(streamed, window), whole_models.golden_of(whole, window)
    assert found.tokens == wanted.tokens
    for one, other in zip(found.top, wanted.top, strict=True):
        assert [token for token, _ in one] == [token for token, _ in other]
        assert [value for _, value in one] == pytest.approx([v for _, v in other], abs=1e-4)
    again = golden_logits(streamed, found)
    assert again.argmax(-1).tolist() == list(found.tokens)


@pytest.mark.parametrize("architecture", ["mixtral", "qwen2_moe", "granitemoe"])
def test_a_layer_without_its_experts_is_there_at_a_time(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed, whole = both(tmp_path, architecture)
    list(each_window(streamed, windows_of(5), lambda _, logits: None))
    rest, most = filled_bytes(streamed), 0  # angles alone
    put = Filling.put

    def watch(filling: Filling, *arguments: Any) -> None:
        nonlocal most
        put(filling, *arguments)
        most = max(most, filled_bytes(streamed))

    monkeypatch.setattr(Filling, "put", watch)
    list(each_window(streamed, windows_of(*LENGTHS), lambda _, logits: None))
    layers = [
        sum(4 * t.numel() for name, t in m.state_dict().items() if ".experts." not in name)
        for m in whole.model.layers
    ]
    ends = 4 * (whole.lm_head.weight.numel() + whole.model.norm.weight.numel())
    assert most == rest + max(*layers, ends)
    assert filled_bytes(streamed) == rest


def test_inputs_may_go_through_experts_in_several_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed, _ = both(tmp_path, "mixtral")
    windows = windows_of(*LENGTHS)
    together = list(each_window(streamed, windows, lambda _, logits: logits))
    monkeypatch.setattr(side_by_side, "GROUP_BYTES", 4 * 32 * 50)
    apart = list(each_window(streamed, windows, lambda _, logits: logits))
    assert all(torch.equal(*pair) for pair in zip(together, apart, strict=True))


def test_what_lies_behind_the_layers_is_there_once_where_two_models_have_it_alike(
    tmp_path: Path,
) -> None:
    one, _ = both(tmp_path, "mixtral")

    class Other(CheckpointWeights):
        def backbone(self, part: str) -> dict[str, torch.Tensor]:
            found = super().backbone(part)
            return {n: 2 * t if n == "model.norm.weight" else t for n, t in found.items()}

    two = StreamedModel(Other(open_checkpoint(tmp_path / "m")))
    hidden = torch.ones(1, 2, 32)
    with one.ends(), two.ends(beside=one):
        first, second = one.leave(hidden), two.leave(hidden)
        heads = [model.stock.lm_head.weight.data_ptr() for model in (one, two)]
        norms = [model.stock.model.norm.weight.data_ptr() for model in (one, two)]
    assert heads[0] == heads[1]
    assert norms[0] != norms[1]
    torch.testing.assert_close(second, 2 * first)


def test_experts_are_read_when_a_token_first_needs_them(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", "qwen3_moe", tokenizer=False)
    read: list[tuple[int, int]] = []

    class Noted(CheckpointWeights):
        def expert(self, layer: int, index: int) -> dict[str, torch.Tensor]:
            read.append((layer, index))
            return super().expert(layer, index)

    model = StreamedModel(Noted(open_checkpoint(path)))
    used: set[tuple[int, int]] = set()

    def seen(_: int) -> Any:
        return lambda layer, asked: used.update(
            (layer, expert) for expert in asked.index.flatten().tolist()
        )

    token = {"input_ids": torch.tensor([[7]]), "use_cache": False}
    list(forward_each(model, [token], lambda _, logits: None, seen))
    assert len(read) == 3 * 2
    assert set(read) == used


def test_layers_that_are_not_called_one_after_another_are_refused(tmp_path: Path) -> None:
    streamed, _ = both(tmp_path, "mixtral")
    layers = streamed.stock.model.layers
    inputs = [{"input_ids": torch.tensor([[7, 8]]), "use_cache": False}]
    for calls, said in (
        ((0, 2, 1), "not called one after another"),
        ((0, 1), "not called one after another"),
    ):
        streamed.stock.forward = lambda calls=calls, **_: [layers[i](torch.ones(1)) for i in calls]
        with pytest.raises(Refused, match=f"MixtralForCausalLM: its layers are {said}"):
            list(forward_each(streamed, inputs, lambda _, logits: None))
    streamed.stock.forward = lambda **_: [layer(torch.ones(1)) for layer in layers]
    with pytest.raises(Refused, match="its layers pass on more than one tensor"):
        list(forward_each(streamed, inputs, lambda _, logits: None))


def test_a_tensor_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", "mixtral", tokenizer=False)

    class Short(CheckpointWeights):
        def backbone(self, part: str) -> dict[str, torch.Tensor]:
            found = super().backbone(part)
            found.pop("model.layers.1.input_layernorm.weight", None)
            return found

    model = StreamedModel(Short(open_checkpoint(path)))
    with pytest.raises(ValueError, match=r"missing or unknown: model\.layers\.1\.input_layernorm"):
        list(each_window(model, windows_of(5), lambda _, logits: None))

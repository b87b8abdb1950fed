"""Random checkpoints are laid out like published ones, and a fine-tune is one of its base."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from serve_app.bench.weights.random_checkpoint import CHANGE, write_base, write_tuned
from serve_app.bench.weights.shapes import SHAPES
from serve_app.errors import ConfigError

SMALL = {
    "mixtral-8x7b": {"num_local_experts": 4, "intermediate_size": 96},
    "olmoe-1b-7b": {"num_experts": 8, "intermediate_size": 48},
    "gpt-oss-20b": {"num_local_experts": 4, "intermediate_size": 64, "head_dim": 16},
}
WIDTH = {
    "vocab_size": 320,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(params=SMALL)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    base, tuned = tmp_path / "base", tmp_path / "tuned"
    write_base(base, SHAPES[request.param].config(2, **WIDTH, **SMALL[request.param]))
    write_tuned(tuned, base)
    return base, tuned


def test_half_of_the_experts_of_a_fine_tune_differ_by_the_stated_size(
    pair: tuple[Path, Path],
) -> None:
    base, tuned = (open_checkpoint(path) for path in pair)
    for layer in range(2):
        sizes = [_change(base, tuned, layer, i) for i in range(base.experts[layer].num_experts)]
        changed = [size for size in sizes if size > 0]
        assert len(changed) == len(sizes) // 2
        assert changed == pytest.approx([CHANGE] * len(changed), rel=0.1)
    for one, other in zip(base.backbone, tuned.backbone, strict=True):
        found = one.read(), other.read()
        assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def _change(base: Checkpoint, tuned: Checkpoint, layer: int, index: int) -> float:
    before, after = (c.experts[layer].read(index) for c in (base, tuned))
    flat = [(after[n].float() - before[n].float()).flatten() for n in before if "bias" not in n]
    return float(torch.cat(flat).square().mean().sqrt())


def test_transformers_loads_it_and_its_tokenizer(pair: tuple[Path, Path]) -> None:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        pair[1], dtype=torch.bfloat16, output_loading_info=True
    )
    model, info = loaded
    assert not any(info.values())
    tokenizer = AutoTokenizer.from_pretrained(pair[1])
    chat = [{"role": "user", "content": "naïve"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    with torch.inference_mode():
        assert model(**tokenizer(text, return_tensors="pt")).logits.isfinite().all()


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    config = SHAPES["olmoe-1b-7b"].config(1, **WIDTH, **SMALL["olmoe-1b-7b"])
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        write_base(tmp_path / name, config, seed)
    files = {name: _digests(tmp_path / name) for name in ("one", "two", "three")}
    assert files["one"] == files["two"] != files["three"]


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(directory.iterdir())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_run_that_ends_early_leaves_nothing(tmp_path: Path) -> None:
    config = SHAPES["olmoe-1b-7b"].config(2, **WIDTH, **SMALL["olmoe-1b-7b"])

    told = 0

    def interrupt(*_: object) -> None:
        nonlocal told
        told += 1
        if told > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_base(tmp_path / "base", config, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there already"):
        write_base(tmp_path, SHAPES["olmoe-1b-7b"].config(1, **WIDTH, **SMALL["olmoe-1b-7b"]))

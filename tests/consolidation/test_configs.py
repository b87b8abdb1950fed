"""Models whose configs differ in what changes nothing are one release, and each answers as its own.

Which fields those are is tested in `tests/representation/architecture/test_family_fields.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from consolidation.errors import Refused
from consolidation.release import Registry, ReleaseReader
from tests.consolidation.running import run
from tests.engine.running import answer, assert_golden, engine_of, greedy_requests
from tests.support.checkpoints import write_checkpoint
from tests.support.whole_models import assemble

CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bare": {"architectures": None, "quantization_config": None},
    "heads": {"head_dim": 8, "use_sliding_window": False},
    "router": {
        "router_aux_loss_coef": 0.5,
        "output_router_logits": True,
        "router_jitter_noise": 0.3,
        "initializer_range": 0.7,
    },
    "tools": {"unsloth_fixed": True, "model_name": "x", "_attn_implementation_autoset": True},
}


def with_config(directory: Path, seed: int, fields: dict[str, Any]) -> Path:
    write_checkpoint(directory, "mixtral", seed, tokenizer=False, num_hidden_layers=2)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return directory


def test_models_that_differ_in_what_changes_nothing_are_served_from_one_release(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = {
        name: with_config(tmp_path / name, seed, fields)
        for seed, (name, fields) in enumerate(CONFIGS.items())
    }
    release = run(tmp_path / "r", paths).release
    told = [line for line in caplog.messages if "ignored" in line]
    fields = [field for own in CONFIGS.values() for field in own]
    # An empty quantization and a dimension that is what it would be anyway are no differences.
    for field in {*fields} - {"quantization_config", "head_dim"}:
        assert sum(field in line for line in told) == 1, f"one line about {field}"
    reader = ReleaseReader(Registry(str(tmp_path / "r"), "fam"), str(release))
    originals: dict[str, Any] = {}
    tokens = torch.arange(3, 103).unsqueeze(0)  # (1, T)
    for name, path in paths.items():
        original: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        originals[name] = original.eval()
        with torch.no_grad():
            found, expected = assemble(reader, name)(tokens).logits, original(tokens).logits
        assert torch.equal(found, expected), name
    requests = greedy_requests(paths, [40, 7], 4, release=str(release))
    assert_golden(originals, requests, answer(engine_of(reader), requests), tolerance=1e-5)


def test_a_window_that_is_used_separates_families(tmp_path: Path) -> None:
    paths = {
        name: with_config(tmp_path / name, 0, fields)
        for name, fields in {"a": {}, "b": {"sliding_window": 64}}.items()
    }
    with pytest.raises(Refused, match="sliding_window: None in 'a', 64 in 'b'"):
        run(tmp_path / "r", paths)

"""Quantised checkpoints, as models and as the base, from their files to a release."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.methods import check_originals
from consolidation.evaluation.verify import verify
from consolidation.release import Registry
from tests.consolidation.running import manifest_of, run
from tests.support.checkpoints import write_checkpoint
from tests.support.quantising import everything, rewrite


def as_published(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """Experts' matrices as MXFP4. tensor: (E, I, O)"""
    if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
        return None
    num_experts, num_in, num_out = tensor.shape
    generator = torch.Generator().manual_seed(len(name))
    groups = (num_experts, num_out, num_in // 32)
    codes = torch.randint(0, 256, (*groups, 16), dtype=torch.uint8, generator=generator)
    scales = torch.full(groups, 123, dtype=torch.uint8)
    return {f"{name}_blocks": codes, f"{name}_scales": scales}


def plain_copy(source: Path, target: Path, *, tuned: bool) -> Path:
    """The same model with plain weights; where `tuned`, those of an expert are others."""
    target.mkdir()
    fields = json.loads((source / "config.json").read_text())
    fields.pop("quantization_config")
    (target / "config.json").write_text(json.dumps(fields))
    tensors = everything(open_checkpoint(source))
    if tuned:
        tensors["model.layers.0.mlp.experts.down_proj"][1] *= 1.5
    ready = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(ready, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_quantised_model_shares_its_experts_with_plain_fine_tunes(tmp_path: Path) -> None:
    published = write_checkpoint(
        tmp_path / "published",
        "gpt_oss",
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        intermediate_size=32,
        dtype=torch.bfloat16,
        tokenizer=False,
    )
    rewrite(published, {"quant_method": "mxfp4"}, as_published)
    assert "model.layers.0.mlp.experts.down_proj_blocks" in load_file(
        published / "model.safetensors"
    )
    models = {
        "published": published,
        "tuned": plain_copy(published, tmp_path / "tuned", tuned=True),
        "plain": plain_copy(published, tmp_path / "plain", tuned=False),
    }
    outcome = run(tmp_path / "registry", models, base=published)
    manifest = manifest_of(outcome)
    assert manifest.dtype == "bfloat16"
    assert manifest.expert_bytes_one_model == open_checkpoint(models["plain"]).expert_bytes
    assert manifest.models["published"].expert_map == manifest.models["plain"].expert_map
    assert [len(layer.slots) for layer in manifest.layers] in ([4, 4], [5, 4])
    assert {name: model.source.quantised for name, model in manifest.models.items()} == {
        "published": "mxfp4",
        "tuned": None,
        "plain": None,
    }
    assert manifest.provenance["base_quantised"] == "mxfp4"
    assert all("quantization_config" not in model.config for model in manifest.models.values())
    assert all(quality.kl == 0 for quality in manifest.quality.values())
    digests = {
        name: {n: d for blob in model.backbone for n, d in blob.tensors.items()}
        for name, model in manifest.models.items()
    }
    assert digests["published"] == digests["plain"]
    assert verify(Registry(str(tmp_path / "registry"), "fam"), outcome.release or "") == []
    check_originals(manifest, {"published": open_checkpoint(published)})

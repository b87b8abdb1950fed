"""Verify: reads a release back and runs every golden prompt. Repairs nothing."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import transformers

from consolidation.release import (
    BackboneBlob,
    Damaged,
    NewerSchema,
    NotFound,
    Registry,
    ReleaseError,
    ReleaseReader,
    golden_findings,
)
from consolidation.release.registry import manifest_blobs
from consolidation.release.tensors import tensor_digest
from consolidation.run.executor import Progress
from consolidation.statistics.scoring import COMPUTE_DTYPE, golden_logits, quiet_transformers
from representation.architecture.config import config_of
from representation.architecture.errors import Unservable


def verify(
    registry: Registry,
    release: str,
    progress: Callable[[Progress], None] = lambda _: None,
) -> list[str]:
    """Everything that is wrong with a release, as sentences; empty if it is sound.

    Runs golden prompts on a transformers model assembled from the release, one model at a time, in
    float32. Raises `NotFound` if there is no such release, and `NewerSchema` for one that is too
    new for this program.
    """
    try:
        reader = ReleaseReader(registry, release)
    except (NotFound, NewerSchema):
        raise
    except ReleaseError as error:
        return [str(error)]
    findings = _digests(registry, reader, progress)
    if findings:
        return findings  # A model cannot be assembled from damaged files.
    names = sorted(reader.models)
    for done, name in enumerate(names):
        progress(Progress("golden", done, len(names)))
        findings += [f"model {name!r}: {text}" for text in _golden(reader, name)]
    progress(Progress("golden", len(names), len(names)))
    return findings


def _digests(
    registry: Registry, reader: ReleaseReader, progress: Callable[[Progress], None]
) -> list[str]:
    findings = []
    blobs = manifest_blobs(reader.manifest)
    for done, (blob, suffix) in enumerate(blobs):
        progress(Progress("digests", done, len(blobs)))
        try:
            if isinstance(blob, BackboneBlob):
                findings += _tensor_findings(blob, registry.read_tensors(blob))
            elif suffix == "safetensors":
                registry.read_tensors(blob)
            else:
                registry.read_bytes(blob, suffix=suffix)
        except Damaged as error:
            findings.append(str(error))
    progress(Progress("digests", len(blobs), len(blobs)))
    return findings


def _tensor_findings(blob: BackboneBlob, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """What the manifest says wrongly of a backbone's tensors: equal ones are served as one."""
    if not blob.tensors:  # it says nothing
        return []
    found = {name: tensor_digest(tensor) for name, tensor in tensors.items()}
    names = sorted(found.keys() | blob.tensors.keys())
    return [
        f"blob {blob.digest}: {name} is not what the manifest says"
        for name in names
        if found.get(name) != blob.tensors.get(name)
    ]


def _golden(reader: ReleaseReader, name: str) -> list[str]:
    golden = reader.models[name].golden
    if golden is None:
        return ["has no golden prompt"]
    try:
        model = assemble(reader, name)
    except (ValueError, KeyError, RuntimeError, Unservable) as error:
        return [f"cannot be assembled: {error}"]
    return golden_findings(golden, golden_logits(model, golden), COMPUTE_DTYPE)


def assemble(reader: ReleaseReader, name: str) -> Any:
    """One model of a release in transformers' own class, in float32 on the CPU."""
    model = reader.models[name]
    config = config_of(model.config)
    state = {key: tensor.float() for key, tensor in reader.read_backbone(name)}
    for layer, row in enumerate(model.expert_map):
        experts = [reader.expert(name, layer, index) for index in range(len(row))]
        for parameter in experts[0]:
            stacked = torch.stack([expert[parameter] for expert in experts])
            state[f"{reader.layers[layer].module}.{parameter}"] = stacked
    kind = cast(Any, transformers.AutoModelForCausalLM)._model_mapping[type(config)]
    with quiet_transformers():
        made, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
        )
    if info["missing_keys"] or info["unexpected_keys"]:
        wrong = sorted([*info["missing_keys"], *info["unexpected_keys"]])
        raise ValueError(f"tensors missing or unknown: {', '.join(wrong[:5])}")
    return made.eval()

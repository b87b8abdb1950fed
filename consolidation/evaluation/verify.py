"""Verify: reads a release back and runs every golden prompt. Repairs nothing."""

from collections.abc import Callable, Mapping

import torch

from consolidation.arithmetic.on_device import CPU, same_sums
from consolidation.errors import Refused
from consolidation.evaluation.golden_prompts import COMPUTE_DTYPE, golden_logits
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
from consolidation.run.executor import Progress, Tell
from consolidation.walk.course import FILLING, Course
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import released
from representation.architecture.errors import Unservable


def verify(
    registry: Registry,
    release: str,
    progress: Callable[[Progress], None] = lambda _: None,
    device: torch.device = CPU,
) -> list[str]:
    """Everything that is wrong with a release, as sentences; empty if it is sound.

    Runs golden prompts on transformers' own models with the release's tensors, a layer at a time,
    in float32, on the device. Raises `NotFound` if there is no such release, and `NewerSchema` for
    one that is too new for this program.
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

        def tell(share: float, done: int = done) -> None:
            progress(Progress("golden", done, len(names), share=share))

        tell(0.0)
        found = _golden(registry, reader, name, device, tell)
        findings += [f"model {name!r}: {text}" for text in found]
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


def _golden(
    registry: Registry, reader: ReleaseReader, name: str, device: torch.device, tell: Tell
) -> list[str]:
    golden = reader.models[name].golden
    if golden is None:
        return ["has no golden prompt"]
    try:
        weights = released(registry, reader, name, device)
        work = FILLING + len(golden.prompt) + len(golden.tokens)
        model = StreamedModel(weights, device, Course(tell, work).passed)
        unknown = sorted(weights.names().keys() - model.stock.state_dict().keys())
        if unknown:
            return [f"cannot be assembled: unknown tensors: {', '.join(unknown[:5])}"]
        with same_sums(device):
            return golden_findings(golden, golden_logits(model, golden), COMPUTE_DTYPE)
    except (ValueError, KeyError, RuntimeError, Refused, Unservable) as error:
        return [f"cannot be assembled: {error}"]

"""The release format: manifest, registry, channels, reader. Serving needs nothing else."""

from consolidation.release.aliases import Alias, Aliases
from consolidation.release.canaries import Canary, Side
from consolidation.release.channels import Channel
from consolidation.release.errors import (
    CanaryRefused,
    ChannelMoved,
    Damaged,
    NewerSchema,
    NotFound,
    ReleaseError,
    StorageFailed,
)
from consolidation.release.golden import TOLERANCES, Golden, golden_findings, golden_tolerance
from consolidation.release.manifest import (
    SCHEMA_VERSION,
    BackboneBlob,
    Blob,
    Layer,
    Manifest,
    Model,
    Part,
    Source,
    expert_bytes,
    expert_map_bytes,
    residual_map_bytes,
)
from consolidation.release.quality import Quality
from consolidation.release.reader import ReleaseReader, read_expert
from consolidation.release.registry import Registry, ReleaseSummary
from consolidation.release.rollout import (
    abort_canary,
    promote_canary,
    set_canary,
    start_canary,
)

__all__ = [
    "SCHEMA_VERSION",
    "TOLERANCES",
    "Alias",
    "Aliases",
    "BackboneBlob",
    "Blob",
    "Canary",
    "CanaryRefused",
    "Channel",
    "ChannelMoved",
    "Damaged",
    "Golden",
    "Layer",
    "Manifest",
    "Model",
    "NewerSchema",
    "NotFound",
    "Part",
    "Quality",
    "Registry",
    "ReleaseError",
    "ReleaseReader",
    "ReleaseSummary",
    "Side",
    "Source",
    "StorageFailed",
    "abort_canary",
    "expert_bytes",
    "expert_map_bytes",
    "golden_findings",
    "golden_tolerance",
    "promote_canary",
    "read_expert",
    "residual_map_bytes",
    "set_canary",
    "start_canary",
]

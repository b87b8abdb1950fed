"""The release format: manifest, registry, channels, reader. Serving needs nothing else."""

from consolidation.release.channels import Channel
from consolidation.release.differences import family_differences
from consolidation.release.errors import (
    ChannelMoved,
    Damaged,
    NewerSchema,
    NotFound,
    ReleaseError,
    StorageFailed,
)
from consolidation.release.golden import TOLERANCES, golden_findings
from consolidation.release.manifest import (
    SCHEMA_VERSION,
    BackboneBlob,
    Blob,
    Golden,
    Layer,
    Manifest,
    Model,
    Part,
    Quality,
    Source,
    expert_bytes,
    expert_map_bytes,
    residual_map_bytes,
)
from consolidation.release.reader import ReleaseReader, read_expert
from consolidation.release.registry import Registry, ReleaseSummary

__all__ = [
    "SCHEMA_VERSION",
    "TOLERANCES",
    "BackboneBlob",
    "Blob",
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
    "Source",
    "StorageFailed",
    "expert_bytes",
    "expert_map_bytes",
    "family_differences",
    "golden_findings",
    "read_expert",
    "residual_map_bytes",
]

"""The release format: manifest, registry, channels, reader. Serving needs nothing else.

A name is imported when it is first asked for: whoever only reads storage or channels, as ingresses
and the command line do, does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "SCHEMA_VERSION": "manifest",
    "TOLERANCES": "golden",
    "Alias": "aliases",
    "Aliases": "aliases",
    "BackboneBlob": "manifest",
    "Blob": "manifest",
    "Canary": "canaries",
    "CanaryRefused": "errors",
    "Channel": "channels",
    "ChannelMoved": "errors",
    "Damaged": "errors",
    "Golden": "golden",
    "Layer": "manifest",
    "Manifest": "manifest",
    "Model": "manifest",
    "NewerSchema": "errors",
    "NotFound": "errors",
    "Part": "manifest",
    "Quality": "quality",
    "Registry": "registry",
    "ReleaseError": "errors",
    "ReleaseReader": "reader",
    "ReleaseSummary": "registry",
    "Side": "canaries",
    "Source": "manifest",
    "StorageFailed": "errors",
    "abort_canary": "rollout",
    "expert_bytes": "manifest",
    "expert_map_bytes": "manifest",
    "golden_findings": "golden",
    "golden_tolerance": "golden",
    "promote_canary": "rollout",
    "read_expert": "reader",
    "residual_map_bytes": "manifest",
    "set_canary": "rollout",
    "start_canary": "rollout",
}

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


def __getattr__(name: str) -> Any:
    """What `from consolidation.release import name` gives."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

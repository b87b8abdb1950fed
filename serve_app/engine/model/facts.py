"""What memory and loading need to know from models' configs. Plans and allocates nothing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from representation.architecture.anatomy import Anatomy, study
from representation.architecture.config import config_of, context_limit, vocabulary_size
from serve_app.engine.config import EngineConfig
from serve_app.engine.experts.shelves import LayerShape
from serve_app.engine.model.refusals import as_unsupported
from serve_app.engine.source import ModelLike, ReleaseSource

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
UNLIMITED = 1 << 20
"""Context of a model whose config sets no limit, in tokens."""


def resolve_dtype(wanted: str, stored: str) -> torch.dtype:
    """What `EngineConfig.dtype` stands for. "auto": bfloat16 where it is stored, else float32.

    (float16 is exact in float32, and is not in bfloat16.)
    """
    if wanted == "auto":
        wanted = "bfloat16" if stored == "bfloat16" else "float32"
    return DTYPES[wanted]


@as_unsupported()
def anatomy_of(source: ReleaseSource, config: EngineConfig) -> Anatomy:
    """What the engine runs of a release's models. Raises: Unsupported."""
    dtype = resolve_dtype(config.dtype, source.dtype)
    return study(config_of(widest(source.models)), dtype, in_float32(source.models.values()))


@as_unsupported()
def context_length(config: Mapping[str, Any]) -> int:
    """The most tokens that a sequence of the model may have."""
    return context_limit(config_of(config)) or UNLIMITED


@as_unsupported()
def vocabulary(config: Mapping[str, Any]) -> int:
    """The size of the model's vocabulary."""
    return vocabulary_size(config_of(config))


def widest(models: Mapping[str, ModelLike]) -> Mapping[str, Any]:
    """The config with the longest vocabulary (the first such, by name)."""
    return widest_config([models[name].config for name in sorted(models)])


@as_unsupported()
def widest_config(configs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The config with the longest vocabulary (the first such)."""
    return max(configs, key=lambda config: vocabulary_size(config_of(config)))


def in_float32(models: Iterable[ModelLike]) -> frozenset[str]:
    """Tensors that any of the models has in float32 where the release's dtype is another."""
    return frozenset(n for model in models for blob in model.backbone for n in blob.in_float32)


def layer_shapes(anatomy: Anatomy) -> list[LayerShape]:
    """The shapes of the experts of each MoE layer, in order."""
    return [LayerShape.of(experts) for experts in anatomy.experts.values()]

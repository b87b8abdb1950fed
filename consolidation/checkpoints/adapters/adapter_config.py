"""What `adapter_config.json` says of a LoRA adapter, or why it is refused. Reads no tensor.

Fields are those of peft's `LoraConfig`. What an adapter changes is told by the tensors in its file,
so the fields that chose them (`target_modules`, `layers_to_transform`, …) are passed over.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from consolidation.checkpoints.architecture import read_json
from consolidation.errors import Refused

CONFIG = "adapter_config.json"
KIND = "LORA"
NO_MATTER = frozenset(
    {
        "auto_mapping",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "modules_to_save",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "velora_config",
    }
)
"""Fields that say how an adapter was trained, or which tensors it has: those are seen in its file.

Layers that are linear take no heed of `fan_in_fan_out`.
"""
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base's weights alone."""


class _File(BaseModel):
    model_config = ConfigDict(extra="allow")

    peft_type: str
    r: int = Field(default=8, ge=1)
    lora_alpha: float = 8.0
    use_rslora: bool = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    target_parameters: list[str] | None = None
    base_model_name_or_path: str | None = None
    init_lora_weights: Any = True


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A LoRA adapter's ranks and scales. `base` is what it was trained on, as its file calls it."""

    directory: Path
    rank: int
    alpha: float
    is_stabilised: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    parameters: tuple[str, ...]
    base: str | None

    def scale(self, names: Sequence[str], rank: int) -> float:
        """What a product of factors is multiplied by.

        names: that patterns may know a layer by.   rank: that its factors have. Raises `Refused`
        if the config says another.
        """
        wanted = _of_patterns(self.rank_pattern, names, self.rank)
        if rank != wanted:
            raise Refused(
                f"{self.directory}: the factors of {names[0]} have rank {rank}; {CONFIG} says "
                f"{wanted}"
            )
        alpha: float = _of_patterns(self.alpha_pattern, names, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_stabilised else rank)

    def names_parameter(self, name: str) -> bool:
        """Whether `target_parameters` names a parameter."""
        return any(name == one or name.endswith(f".{one}") for one in self.parameters)


def _of_patterns(patterns: Mapping[str, Any], names: Sequence[str], usual: Any) -> Any:
    """The value of the first pattern that a name ends with, as peft looks for it."""
    for pattern, value in patterns.items():
        if any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
            return value
    return usual


def read_adapter_config(directory: Path) -> AdapterConfig:
    """Raises `Refused`, naming the field, for an adapter that is not plain LoRA."""
    path = directory / CONFIG
    fields = read_json(path)
    try:
        found = _File.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(f"{path}: {where}: {first['msg']}") from error
    if found.peft_type != KIND:
        raise Refused(f"{path}: peft_type is {found.peft_type}; only {KIND} can be merged")
    for name, value in sorted((found.model_extra or {}).items()):
        if name not in NO_MATTER and value:
            raise Refused(
                f"{path}: {name} is {_short(value)}: this changes what the adapter does, or is "
                "not known here; merge it with peft, and give the merged model"
            )
    start = found.init_lora_weights
    if not isinstance(start, bool | str | None) or start not in PLAIN_STARTS:
        raise Refused(
            f"{path}: init_lora_weights is {_short(start)}: the base's own weights were changed "
            "before training. Save the adapter again with peft's "
            "path_initial_model_for_weight_conversion; or, if BASE is the changed base, set the "
            "field to true"
        )
    return AdapterConfig(
        directory=directory,
        rank=found.r,
        alpha=found.lora_alpha,
        is_stabilised=found.use_rslora,
        rank_pattern=_checked(path, "rank_pattern", found.rank_pattern),
        alpha_pattern=_checked(path, "alpha_pattern", found.alpha_pattern),
        parameters=tuple(found.target_parameters or ()),
        base=found.base_model_name_or_path,
    )


def _checked(path: Path, field: str, patterns: Mapping[str, Any] | None) -> Mapping[str, Any]:
    for pattern in patterns or {}:
        try:
            re.compile(pattern)
        except re.error as error:
            raise Refused(f"{path}: {field}: {pattern!r} is no pattern: {error}") from error
    return patterns or {}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

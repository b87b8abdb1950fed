"""Whether models are of one family: what may differ between their configs, and what may not."""

from collections.abc import Mapping
from typing import Any

from consolidation.checkpoint import Checkpoint
from consolidation.errors import Refused

ROPE_FIELDS = frozenset(
    {
        "max_position_embeddings",
        "original_max_position_embeddings",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
    }
)
OWN_FIELDS = frozenset({"vocab_size", "use_cache", "transformers_version", "_name_or_path"})
"""May differ: how many tokens a model knows, and bookkeeping."""

ABSENT = "absent"
NAMED_AT_MOST = 8


def check_family(configs: Mapping[str, dict[str, Any]]) -> None:
    """Raise `Refused` with the differing fields and both values, unless all are of one family.

    Models may differ in vocabulary length, token ids, rope parameters (with the context length
    that belongs to them) and bookkeeping. Tokenizers, chat templates and generation defaults are
    not part of a config and always differ freely.
    """
    names = list(configs)
    first = names[0]
    for name in names[1:]:
        differing = _differences(configs[first], configs[name])
        if differing:
            lines = [
                f"  {field}: {one!r} in {first!r}, {other!r} in {name!r}"
                for field, one, other in differing[:NAMED_AT_MOST]
            ]
            more = len(differing) - NAMED_AT_MOST
            lines += [f"  and {more} more"] if more > 0 else []
            raise Refused(
                f"models {first!r} and {name!r} are not of one family:\n" + "\n".join(lines)
            )


def check_layers(checkpoints: Mapping[str, Checkpoint]) -> None:
    """Raise `Refused` unless all models have the same experts modules with the same parameters."""
    names = list(checkpoints)
    first = checkpoints[names[0]]
    for name in names[1:]:
        other = checkpoints[name]
        for one, two in zip(first.experts, other.experts, strict=True):
            same = (one.module, one.num_experts, [key for key, _ in one.parameters])
            if same != (two.module, two.num_experts, [key for key, _ in two.parameters]):
                raise Refused(f"experts of {one.module} in {names[0]!r} and {name!r} differ")


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    found = []
    for field in sorted(one.keys() | other.keys()):
        values = one.get(field, ABSENT), other.get(field, ABSENT)
        if values[0] != values[1] and not may_differ(field):
            found.append((field, *values))
    return found


def may_differ(field: str) -> bool:
    """Whether models of one family may have different values of this config field."""
    return field in OWN_FIELDS or field in ROPE_FIELDS or field.endswith("_token_id")

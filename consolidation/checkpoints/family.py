"""Whether models are of one family: what may differ between their configs, and what may not."""

from collections.abc import Mapping
from typing import Any

from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.errors import Refused
from consolidation.release import family_differences

NAMED_AT_MOST = 8


def check_family(configs: Mapping[str, dict[str, Any]]) -> None:
    """Raise `Refused` with the differing fields and both values, unless all are of one family."""
    names = list(configs)
    first = names[0]
    for name in names[1:]:
        differing = family_differences(configs[first], configs[name])
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

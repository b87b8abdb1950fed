"""Which config fields may differ between the models of one family. Reads no files."""

from collections.abc import Mapping
from typing import Any

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
"""These may differ: the size of the vocabulary, and bookkeeping."""

ABSENT = "absent"


def _may_differ(field: str) -> bool:
    """Whether models of one family may have different values in this config field."""
    return field in OWN_FIELDS or field in ROPE_FIELDS or field.endswith("_token_id")


def family_differences(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Fields that must not differ but do, with both values; empty for models of one family.

    Models may differ in vocabulary size, token ids, rope parameters (with the context length
    that goes with them) and bookkeeping. Tokenizers, chat templates and generation defaults are
    not part of a config and may always differ.
    """
    found = []
    for field in sorted(one.keys() | other.keys()):
        values = one.get(field, ABSENT), other.get(field, ABSENT)
        if values[0] != values[1] and not _may_differ(field):
            found.append((field, *values))
    return found

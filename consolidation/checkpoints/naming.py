"""How transformers calls the tensors of a checkpoint in the model. Reads none.

Names are matched as `transformers.core_model_loading.convert_and_load_state_dict_in_model` does:
renamings, then at most one converter, then the base model's prefix.
"""

import re
from collections.abc import Sequence
from copy import deepcopy

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from consolidation.checkpoints.conversion import Shapes
from representation.architecture.anatomy import Anatomy
from representation.architecture.config import is_wrapper
from representation.architecture.skeleton import whole_model
from representation.encoder_decoder.sparse_blocks import listed_converters

NAMED_AT_MOST = 5


class Naming:
    """The names of one model's parameters, and the converters that make some of them.

    Those of a wrapper's other towers are known too: `shapes` has all that transformers would load.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        wrapped = is_wrapper(anatomy.config)
        model = whole_model(anatomy.config, torch.float32) if wrapped else anatomy.model
        mapping = get_model_conversion_mapping(model)
        self._wanted = dict(model.state_dict())
        self._prefix = model.base_model_prefix
        self._renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self._converters += listed_converters(anatomy.model)
        self.shapes = Shapes(
            anatomy.config, {name: tuple(t.shape) for name, t in self._wanted.items()}
        )

    def find(self, key: str) -> tuple[str, str | None]:
        """The parameter that a tensor of this name is or is a part of; in no model: another name.

        With the pattern of the converter that makes the parameter, if there is one.
        """
        name, pattern = rename_source_key(
            key, self._renamings, self._converters, self._prefix, self._wanted
        )
        if name not in self._wanted and key in self._wanted:
            return key, None
        return name, pattern

    def converter(self, pattern: str) -> WeightConverter:
        """A new converter with this pattern."""
        by_pattern = {p: entry for entry in self._converters for p in entry.source_patterns}
        return deepcopy(by_pattern[pattern])


def numbered(pattern: str, key: str) -> tuple[str, int]:
    """Replace the expert's number in the key by `*`. -> the key, the number

    Renaming comes before converting, so only the part of the pattern around `*` is looked for: the
    number between its two names, or else the last number of the key.
    """
    prefix = pattern.split("*.")[0]
    before = prefix[prefix.rstrip(".").rfind(".") + 1 :]  # with what joins it to the number
    match = re.search(rf"(?<={re.escape(before)})\d+(?=\.)", key) if before else None
    found = match or list(re.finditer(r"(?<=\.)\d+(?=\.)", key))[-1]
    return key[: found.start()] + "*" + key[found.end() :], int(found.group())


def some(names: Sequence[str]) -> str:
    """The first names of many, for an error."""
    shown = ", ".join(names[:NAMED_AT_MOST])
    more = len(names) - NAMED_AT_MOST
    return f"{shown} and {more} more" if more > 0 else shown

"""Which tensors of a checkpoint are known and not served, by what they belong to. Reads none.

They are those of a wrapper's other towers, those of layers that predict further tokens, and what
else transformers passes over when it loads a model for text.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

PREDICTION = re.compile(r"(^|\.)(mtp|nextn)(_[a-z]+)?\.")
"""Of modules that predict further tokens, wherever they lie: `mtp.layers.0.…`, `model.mtp.…`."""
PREDICTION_LAYER = re.compile(r"(?P<layer>(^|.*\.)layers\.\d+)\.(eh_proj|enorm|hnorm)\.")
"""Of a layer that predicts further tokens and has a number after the decoder's (DeepSeek, GLM): it
joins an embedding and a hidden state, which no layer of a decoder does.
"""


class Prediction:
    """Tells tensors of layers that predict further tokens from others, by all names of a file."""

    def __init__(self, keys: Iterable[str]) -> None:
        found = (PREDICTION_LAYER.match(key) for key in keys)
        self._layers = tuple(sorted({f"{one['layer']}." for one in found if one}))

    def has(self, key: str) -> bool:
        """Whether a tensor that is of nothing else in the model is of such a layer."""
        return PREDICTION.search(key) is not None or key.startswith(self._layers)


def belonging(names: Iterable[str], served: Iterable[str]) -> dict[str, int]:
    """How many of the names are in each module that holds nothing that is served, sorted."""
    paths = {path for name in served for path in _paths(name)}
    outermost = (next(p for p in [*_paths(name), name] if p not in paths) for name in names)
    return dict(sorted(Counter(outermost).items()))


def _paths(name: str) -> list[str]:
    """Of the modules that a tensor is in, outermost first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def in_words(found: Mapping[str, int]) -> str:
    """`model.visual (27 tensors), mtp (1 tensor)`"""
    return ", ".join(
        f"{module} ({count} tensor{'s' if count > 1 else ''})" for module, count in found.items()
    )

"""Which modules mix the tokens of a sequence. Looks at code, and runs nothing.

A run without data (`tracing.py`) sees each call of attention, and what recurrent mixers keep. It
cannot see that a convolution looks at neighbours, or that a module keeps state between calls.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from representation.architecture.errors import Unservable
from representation.architecture.states import CACHE_ARGUMENTS


@dataclass(frozen=True, slots=True)
class Mixers:
    """Token mixers by qualified name, in order of layers.

    attentions: called through `AttentionInterface`; they need the keys and values of every token.
    recurrent: the others; for each, the name under which it takes a cache.
    """

    attentions: tuple[str, ...]
    recurrent: dict[str, str]


def token_mixers(skeleton: nn.Module) -> Mixers:
    """The mixers of a model: the innermost modules that receive the cache.

    A decoder layer without a mixer of its own, as of experts alone, may receive it too. Nothing
    else may keep state between tokens (convolutions, indexers of sparse attention).
    Raises: Unservable.
    """
    attentions, recurrent = [], {}
    for name, module in _mixers(skeleton):
        if "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(type(module).forward):
            attentions.append(name)
        elif not isinstance(module, GradientCheckpointingLayer):  # which decoder layers are
            recurrent[name] = _cache_arguments(module)[0]
    for name, module in skeleton.named_modules():
        inside = any(name.startswith(f"{path}.") for path in recurrent)
        convolves = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not inside
        if convolves or "Indexer" in str(type(module)):
            raise Unservable(
                f"{name} is a {type(module).__name__}, which looks at other tokens outside of "
                "attention and of recurrent mixers; that cannot be served"
            )
    if not attentions:
        raise Unservable(f"{type(skeleton).__name__} has no attention; models without any are not")
    return Mixers(tuple(attentions), recurrent)


def _mixers(skeleton: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    cached = [name for name, module in skeleton.named_modules() if _cache_arguments(module)]
    for name in cached:
        if name and not any(other.startswith(f"{name}.") for other in cached):
            yield name, skeleton.get_submodule(name)


def _cache_arguments(module: nn.Module) -> list[str]:
    parameters = inspect.signature(type(module).forward).parameters
    return [name for name in CACHE_ARGUMENTS if name in parameters]

"""Whether only attention mixes tokens in a model. Looks at its code, and runs nothing.

A run without data (`tracing.py`) sees each call of attention. It cannot see that a convolution
looks at neighbours, or that a module keeps state between calls.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any, cast

from torch import nn

from representation.architecture.errors import Unservable

CACHE_ARGUMENTS = frozenset({"past_key_values", "past_key_value", "cache_params", "layer_past"})


def attention_modules(skeleton: nn.Module) -> list[str]:
    """The token mixers by qualified name, in order of layers. Each must be attention.

    A mixer is an innermost module that receives the cache. There must be one per decoder layer,
    called through `AttentionInterface`, and nothing else may keep state between tokens
    (convolutions, indexers of sparse attention).
    Raises: Unservable.
    """
    num_layers = int(cast(Any, skeleton).config.get_text_config().num_hidden_layers)
    mixers = list(_mixers(skeleton))
    for name, module in mixers:
        if "ALL_ATTENTION_FUNCTIONS" not in inspect.getsource(type(module).forward):
            raise Unservable(
                f"{name} is a {type(module).__name__}, which is not attention "
                "called through transformers' AttentionInterface"
            )
    for name, module in skeleton.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or "Indexer" in str(type(module)):
            raise Unservable(
                f"{name} is a {type(module).__name__}, which keeps state between "
                "tokens; only attention can be served"
            )
    layers = {match.group(1) for name, _ in mixers if (match := re.match(r".*?\.(\d+)\.", name))}
    if len(layers) != num_layers or len(mixers) != num_layers:
        raise Unservable(
            f"{len(mixers)} attention modules in {len(layers)} of {num_layers} "
            "layers; exactly one in each can be served"
        )
    return [name for name, _ in mixers]


def _mixers(skeleton: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    cached = [name for name, module in skeleton.named_modules() if _takes_cache(module)]
    for name in cached:
        if name and not any(other.startswith(f"{name}.") for other in cached):
            yield name, skeleton.get_submodule(name)


def _takes_cache(module: nn.Module) -> bool:
    return bool(CACHE_ARGUMENTS & inspect.signature(type(module).forward).parameters.keys())

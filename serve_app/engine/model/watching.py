"""Reports what a step's routers choose. Does not change what is computed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from serve_app.engine.experts.pool import PoolLayer

RoutingSeen = Callable[[PoolLayer, torch.Tensor, torch.Tensor], None]
"""Called with a layer, the map row of each token, (T,), and each token's experts, (T, K)."""


@contextmanager
def told(modules: Iterable[tuple[nn.Module, PoolLayer]], seen: RoutingSeen) -> Iterator[None]:
    """Calls `seen` with the inputs of each experts module, inside the block."""
    with ExitStack() as hooks:
        for module, layer in modules:
            hook = _hook(layer, seen)
            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _hook(layer: PoolLayer, seen: RoutingSeen) -> Callable[..., None]:
    """A hook that reports a call of an experts module before it runs."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _hidden, experts, _weights = [*args, *kwargs.values()]
        seen(layer, layer.spans.rows, experts)

    return hook

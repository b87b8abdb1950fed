"""What a step's routers choose, told to whoever asks. Changes nothing of what is computed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from serve_app.engine.experts.pool import PoolLayer

RoutingSeen = Callable[[PoolLayer, torch.Tensor, torch.Tensor], None]
"""Told a layer, the map row of each token, (T,), and the token's experts, (T, K)."""


@contextmanager
def told(modules: Iterable[tuple[nn.Module, PoolLayer]], seen: RoutingSeen) -> Iterator[None]:
    """Have `seen` called with what each experts module is asked for, for as long as it lasts."""
    with ExitStack() as hooks:
        for module, layer in modules:
            hook = _hook(layer, seen)
            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def _hook(layer: PoolLayer, seen: RoutingSeen) -> Callable[..., None]:
    """What tells of a call of an experts module, before it runs."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _hidden, experts, _weights = [*args, *kwargs.values()]
        seen(layer, layer.step.view.tokens.rows, experts)

    return hook

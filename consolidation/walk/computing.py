"""How the modules of a stock model compute in a walk: by `arithmetic/float_products`."""

from functools import partial
from typing import Any

import torch
from torch import nn

from consolidation.arithmetic.float_products import product
from consolidation.walk.experts_forward import FUNCTION
from representation.encoder_decoder.sparse_blocks import use_experts


def compute_by_products(model: Any) -> None:
    """Make linear layers and experts of a stock model compute so; everything else is as it was."""
    use_experts(model, FUNCTION)
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__dict__["forward"] = partial(_linear, module)


def _linear(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    out = product(x, module.weight)
    return out if module.bias is None else out + module.bias

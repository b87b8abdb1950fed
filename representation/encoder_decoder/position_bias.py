"""Biases of attention by relative position, from a table of each model. Computes no attention.

T5 and its kin add to each score a number that depends on how far apart the two tokens are: on the
bucket that their distance falls into (https://arxiv.org/abs/1910.10683, section 2.1). One layer of
a stack has the table; the others use what it gives.
"""

import copy
import inspect
from typing import Any

import torch
from torch import nn

TABLE = "relative_attention_bias"
"""What transformers calls the table of such a module: (buckets, heads)."""
HANDED_ON = ("position_bias", "encoder_decoder_position_bias")
"""What layers are called with that an earlier one computed, in the order in which it returned it
behind its output.
"""


def num_biases(layer: nn.Module) -> int:
    """How many position biases a layer returns behind its output."""
    return len(inspect.signature(layer.forward).parameters.keys() & set(HANDED_ON))


def borrow_table(module: Any, owner: Any) -> None:
    """Let a module compute biases by another's table, where it is handed none."""
    module.has_relative_attention_bias = True
    module.compute_bias = owner.compute_bias


def has_table(module: nn.Module) -> bool:
    """Whether it is an attention module with such a table."""
    return isinstance(getattr(module, TABLE, None), nn.Embedding) and hasattr(
        module, "compute_bias"
    )


def buckets(module: Any, reach: int) -> torch.Tensor:
    """The bucket of each distance from -(reach - 1) to reach - 1, by the module's own code.

    module: has a table, maybe without data   ->  (2 * reach - 1,) int64
    """
    num_buckets = getattr(module, TABLE).num_embeddings
    numbers = torch.arange(num_buckets, dtype=torch.float64).unsqueeze(1)  # (buckets, 1)
    twin = copy.copy(module)
    twin._modules = {TABLE: nn.Embedding.from_pretrained(numbers)}
    found: torch.Tensor = type(module).compute_bias(
        twin, 1, 2 * reach - 1, device=torch.device("cpu"), past_seen_tokens=reach - 1
    )  # (1, 1, 1, 2 * reach - 1)
    return found.flatten().to(torch.int64)

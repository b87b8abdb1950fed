"""A model whose answers end: a table of which byte follows which, as weights. Trained on nothing.

Attention and experts add nothing, so the last byte alone decides: each has a row of its own in the
embeddings, and the head is the table. Where a grammar forbids what the table likes most, it takes
what closes: answers under any schema end soon.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support.checkpoints import COMMON, byte_tokenizer, tiny_model

SIZE = COMMON["vocab_size"]
SHAPE: dict[str, Any] = {"hidden_size": SIZE, "initializer_range": 0.06}
SAYS = "Cold, gray."
"""No two of its characters are equal, and none is in `_ENDS_THOUGHTS`."""
_ENDS_THOUGHTS = "</think>"
_CLOSING = '}]"{'
"""From what is best to what is worst, where nothing else is liked."""
_END = COMMON["eos_token_id"]
_SILENT = (".o_proj.", ".down_proj")


def write_brief(directory: Path, **shape: Any) -> None:
    """As `write_checkpoint` does.   shape: with that of `SHAPE`."""
    model = tiny_model("mixtral", **shape)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if any(part in name for part in _SILENT):
                tensor.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(SIZE))
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight.copy_(_table().T / math.sqrt(SIZE))
    model.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)


def _table() -> Tensor:
    """-> (SIZE, SIZE): the logit of each token after each token."""
    table = torch.zeros(SIZE, SIZE)
    table[:, _END] = 8.0
    for worse, character in enumerate(_CLOSING):
        table[:, _token(character)] = 7.0 - worse
    for logit, text in ((11.0, f".{_ENDS_THOUGHTS}"), (12.0, f"\n{SAYS}")):
        for last, following in _tokens_in_turn(text):
            table[last, following] = logit
    table[_token(SAYS[-1]), _END] = 13.0
    return table


def _tokens_in_turn(text: str) -> Iterator[tuple[int, int]]:
    return pairwise(_token(character) for character in text)


def _token(character: str) -> int:
    [token] = byte_tokenizer()(character, add_special_tokens=False)["input_ids"]
    return int(token)

"""What a model answers to a golden prompt, and what it must answer again. Judges nothing."""

import torch
from transformers import DynamicCache

from consolidation.release import Golden
from consolidation.statistics.text import Window
from consolidation.walk.course import FILLING
from consolidation.walk.forward import forward_each
from consolidation.walk.streamed import StreamedModel
from representation.architecture.config import context_limit

GOLDEN_PROMPT = 16
GOLDEN_TOKENS = 16
GOLDEN_TOP = 20
COMPUTE_DTYPE = "float32"


def golden_of(model: StreamedModel, window: Window) -> Golden:
    """What a model generates after the first tokens of a window; no token stops it.

    A token at a time, with the keys and values of those before it, so each reads only the experts
    that it is sent to: all tokens together read a few times what the model has.
    """
    config = model.stock.config
    prompt = window.tokens[:GOLDEN_PROMPT]
    length = GOLDEN_PROMPT + GOLDEN_TOKENS
    cache = DynamicCache(config=config)
    fed, tokens = list(prompt), []
    top: list[tuple[tuple[int, float], ...]] = []
    for _ in range(min(length, context_limit(config) or length) - len(prompt)):
        inputs = {
            "input_ids": torch.tensor([fed], device=model.device),
            "past_key_values": cache,
            "use_cache": True,
        }
        (logits,) = forward_each(
            model,
            [inputs],
            lambda _, logits: logits[0, -1].float(),
            positions=lambda _: slice(-1, None),
        )
        # A stable sort: of equal logits the lower token comes first.
        values, order = torch.sort(logits, descending=True, stable=True)
        pairs = zip(order[:GOLDEN_TOP].tolist(), values[:GOLDEN_TOP].tolist(), strict=True)
        top.append(tuple(pairs))
        fed = [int(order[0])]
        tokens += fed
    return Golden(prompt=prompt, tokens=tuple(tokens), top=tuple(top), dtype=COMPUTE_DTYPE)


def golden_work() -> int:
    """What `golden_of` does, as `walk/course.py` counts it."""
    return GOLDEN_TOKENS * (1 + FILLING) + GOLDEN_PROMPT


def golden_logits(model: StreamedModel, golden: Golden) -> torch.Tensor:
    """Logits at the positions that predict the golden tokens, in one forward. -> (tokens, V)"""
    fed = torch.tensor([[*golden.prompt, *golden.tokens]], device=model.device)
    first = len(golden.prompt) - 1
    inputs = {"input_ids": fed, "use_cache": False}
    (logits,) = forward_each(model, [inputs], lambda _, logits: logits[0, first:-1].float())
    return logits

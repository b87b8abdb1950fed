"""What a model answers to a golden prompt, and what it must answer again. Judges nothing."""

from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import MoEModelOutput

from consolidation.release import Golden
from consolidation.statistics.scoring import each_window, inputs_of
from consolidation.statistics.windows import Window
from consolidation.walk.course import FILLING
from consolidation.walk.forward import forward_each
from consolidation.walk.streamed import StreamedModel
from representation.architecture.config import context_limit, decoder_beginning
from representation.encoder_decoder.both_stacks import is_encoder_decoder

Tokens = tuple[int, ...]

GOLDEN_PROMPT = 16
GOLDEN_TOKENS = 16
GOLDEN_TOP = 20
COMPUTE_DTYPE = "float32"


def golden_of(model: StreamedModel, window: Window) -> Golden:
    """What a model generates after the first tokens of a window; no token stops it.

    A token at a time, with the keys and values of those before it, so each reads only the experts
    that it is sent to: all tokens together read a few times what the model has. The prompt of an
    encoder–decoder are the first tokens of the window's source.
    """
    config = model.stock.config
    prompt = (window.source or window.tokens)[:GOLDEN_PROMPT]
    length = GOLDEN_PROMPT + GOLDEN_TOKENS
    inputs = _asking(model, prompt)
    tokens: list[int] = []
    top: list[tuple[tuple[int, float], ...]] = []
    for _ in range(min(length, context_limit(config) or length) - len(prompt)):
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
        tokens.append(int(order[0]))
        inputs = _going_on(model, inputs, tokens[-1])
    return Golden(prompt=prompt, tokens=tuple(tokens), top=tuple(top), dtype=COMPUTE_DTYPE)


def _asking(model: StreamedModel, prompt: Tokens) -> dict[str, Any]:
    """What the stock forward is called with for a prompt, and nothing generated yet."""
    config = model.stock.config
    if not is_encoder_decoder(model.stock):
        asked = inputs_of(Window(prompt, 1), model.device)
        return {**asked, "past_key_values": DynamicCache(config=config), "use_cache": True}
    asked = inputs_of(Window(decoder_beginning(config), 1, prompt), model.device)
    # Its encoder refuses `use_cache`; its decoder uses a cache that it is given in any case.
    return {**asked, "past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}


def _going_on(model: StreamedModel, inputs: dict[str, Any], token: int) -> dict[str, Any]:
    """What it is called with next; what an encoder gave is in the cache."""
    fed = torch.tensor([[token]], device=model.device)
    if not is_encoder_decoder(model.stock):
        return {**inputs, "input_ids": fed}
    nothing = torch.empty(1, 0, model.stock.config.hidden_size, device=model.device)
    kept = {name: inputs[name] for name in ("past_key_values", "use_cache")}
    encoder_outputs = MoEModelOutput(nothing)
    return {**kept, "encoder_outputs": encoder_outputs, "decoder_input_ids": fed}


def golden_work() -> int:
    """What `golden_of` does, as `walk/course.py` counts it."""
    return GOLDEN_TOKENS * (1 + FILLING) + GOLDEN_PROMPT


def golden_logits(model: StreamedModel, golden: Golden) -> torch.Tensor:
    """Logits at the positions that predict the golden tokens, in one forward. -> (tokens, V)"""
    first = decoder_beginning(model.stock.config)
    window = Window((*golden.prompt, *golden.tokens), len(golden.prompt))
    if first:
        window = Window((*first, *golden.tokens), len(first), golden.prompt)
    (logits,) = each_window(model, [window], lambda _, logits: logits)
    return logits

"""The next token of each sequence, from its logits. On the device; knows no scheduler.

A row's choice depends on its own logits, settings and random number alone, and the random number
on (seed, position) alone: so a seed gives the same text alone and in a full batch.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from serve_app.engine.request import Logprob, Sampling

LEAST_TEMPERATURE = 1e-5
"""Below it a row is greedy: logits divided by less leave the range of float32."""


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One row to sample.

    tokens: all known tokens, of which the first `prompt_length` are the prompt.
    banned: tokens that may not be chosen (stop tokens before `min_tokens`).
    """

    sampling: Sampling
    tokens: Sequence[int]
    prompt_length: int
    banned: frozenset[int]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the two arguments alone, the same on every device."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed % 2**64, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def sample(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> list[int]:
    """Choose a token for each row.

    logits: (n, V), -inf where a model has no such token; left as it is  ->  n tokens
    """
    adjusted = logits.float()
    if any(_adjusts(row) for row in rows):
        adjusted = adjusted.clone()
        for index, row in enumerate(rows):
            if _adjusts(row):
                _adjust(adjusted[index], row)
    greedy = adjusted.argmax(dim=-1)
    if all(_is_greedy(row) for row in rows):
        return [int(token) for token in greedy.tolist()]
    drawn = _draw(adjusted, rows)
    is_greedy = torch.tensor([_is_greedy(row) for row in rows], device=logits.device)
    return [int(token) for token in torch.where(is_greedy, greedy, drawn).tolist()]


def logprobs_of(logits: torch.Tensor, tokens: Sequence[int], top: Sequence[int]) -> list[Logprob]:
    """Log-probabilities of given tokens, and the likeliest at each row.

    logits: (n, V)   tokens: n   top: how many of the likeliest, for each row
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1))[:, 0]
    widest = min(max(top), logits.shape[1])
    values, indices = logprobs.topk(widest, dim=-1)
    found = []
    columns = zip(tokens, chosen.tolist(), indices.tolist(), values.tolist(), top, strict=True)
    for token, logprob, ids, scores, count in columns:
        best = tuple(zip(ids[:count], scores[:count], strict=True))
        found.append(Logprob(token, logprob, best))
    return found


def _is_greedy(row: SamplingRow) -> bool:
    return row.sampling.temperature < LEAST_TEMPERATURE


def _adjusts(row: SamplingRow) -> bool:
    settings = row.sampling
    return bool(
        row.banned
        or settings.logit_bias
        or settings.repetition_penalty != 1.0
        or settings.presence_penalty
        or settings.frequency_penalty
    )


def _adjust(logits: torch.Tensor, row: SamplingRow) -> None:
    """Apply penalties, biases and bans to one row, in place.   logits: (V,)"""
    settings = row.sampling
    size = logits.shape[0]

    def index(ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=logits.device)

    if settings.repetition_penalty != 1.0:
        seen = index(sorted(set(row.tokens)))
        values = logits[seen]
        penalty = settings.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    generated = row.tokens[row.prompt_length :]
    if generated and (settings.presence_penalty or settings.frequency_penalty):
        ids = index(generated)
        counts = torch.zeros_like(logits).scatter_add_(0, ids, torch.ones_like(logits[ids]))
        logits -= counts * settings.frequency_penalty
        logits -= (counts > 0) * settings.presence_penalty
    for token, bias in settings.logit_bias:
        if 0 <= token < size:
            logits[token] += bias
    banned = [token for token in sorted(row.banned) if 0 <= token < size]
    if banned:
        logits[index(banned)] = float("-inf")


def _draw(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Draw from each row's filtered distribution, by inversion in vocabulary order.

    logits: (n, V)  ->  (n,). Vocabulary order, not order of probability, so that rounding which
    swaps two near-equal tokens does not move the others.
    """
    device = logits.device
    temperatures = _column([1.0 if _is_greedy(r) else r.sampling.temperature for r in rows], device)
    probabilities = torch.softmax(logits / temperatures, dim=-1)
    if any(r.sampling.top_k or r.sampling.top_p < 1 or r.sampling.min_p for r in rows):
        probabilities = _filtered(probabilities, rows)
    cumulative = probabilities.double().cumsum(dim=-1)
    numbers = [uniform(row.sampling.seed, len(row.tokens)) for row in rows]
    wanted = torch.tensor(numbers, dtype=torch.float64, device=device).unsqueeze(1)
    drawn = torch.searchsorted(cumulative, wanted * cumulative[:, -1:], right=True)[:, 0]
    last = logits.shape[1] - 1 - (probabilities.flip(1) > 0).to(torch.int8).argmax(dim=1)
    return torch.minimum(drawn, last)


def _column(values: list[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)


def _filtered(probabilities: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Zero what top-k, then top-p, then min-p leave out.   probabilities: (n, V)"""
    device = probabilities.device
    size = probabilities.shape[1]
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(size, device=device).unsqueeze(0)
    keep = ranks < _column([float(row.sampling.top_k or size) for row in rows], device)
    kept = ordered * keep
    total = kept.sum(dim=-1, keepdim=True)
    before = kept.cumsum(dim=-1) - kept
    keep &= before < _column([row.sampling.top_p for row in rows], device) * total
    keep &= ordered >= _column([row.sampling.min_p for row in rows], device) * ordered[:, :1]
    keep[:, 0] = True
    mask = torch.zeros_like(keep).scatter_(1, order, keep)
    return probabilities * mask

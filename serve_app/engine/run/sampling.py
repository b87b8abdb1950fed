"""Samples the next token of each sequence from its logits, on the device. Schedules nothing.

A row's choice depends only on its own logits, settings and random number, and the random number
only on (seed, position). So a seed gives the same text alone and in a full batch. Nothing here
waits for the device: the host need not know the choice, nor the token before it.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from serve_app.engine.request import Logprob, Sampling
from serve_app.engine.step.transfer import to_device

LEAST_TEMPERATURE = 1e-5
"""Below this a row is greedy: logits divided by less would leave the range of float32."""


STRETCH = 128
"""How many probabilities are summed together to find the stretch of the vocabulary to look in."""
FEW = 512
"""The likeliest tokens, among which top-p usually finds all that it keeps."""


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One row to sample.

    tokens: all known tokens, of which the first `prompt_length` are the prompt.
    banned: tokens that may not be chosen (stop tokens before `min_tokens`).
    pending: the row that the step before sampled for the sequence, if that token follows the known
    ones and the host does not know it yet.
    """

    sampling: Sampling
    tokens: Sequence[int]
    prompt_length: int
    banned: frozenset[int]
    pending: int | None = None

    @property
    def position(self) -> int:
        """The position of the token to sample."""
        return len(self.tokens) + (self.pending is not None)

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature < LEAST_TEMPERATURE

    @property
    def is_repetitive(self) -> bool:
        """Whether tokens of the prompt and the answer are penalized."""
        return self.sampling.repetition_penalty != 1.0

    @property
    def is_penalized(self) -> bool:
        """Whether tokens of the answer are penalized."""
        return bool(self.sampling.presence_penalty or self.sampling.frequency_penalty)


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-probabilities (nats) of n given tokens, and of the k likeliest at each row.

    tokens: (n,) int64   chosen: (n,)   best: (n, k) int64   values: (n, k), of the best
    """

    tokens: torch.Tensor
    chosen: torch.Tensor
    best: torch.Tensor
    values: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.tokens, self.chosen, self.best, self.values

    def logprobs(self, top: Sequence[int]) -> list[Logprob]:
        """From scores on the host. top: how many of the likeliest, for each row"""
        columns = (tensor.tolist() for tensor in self.tensors)
        return [
            Logprob(token, logprob, tuple(zip(ids[:count], values[:count], strict=True)))
            for token, logprob, ids, values, count in zip(*columns, top, strict=True)
        ]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends only on the two arguments, the same on every device."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed % 2**64, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def sample(
    logits: torch.Tensor, rows: Sequence[SamplingRow], before: torch.Tensor | None = None
) -> torch.Tensor:
    """Choose a token for each row.

    logits: (n, V), -inf for tokens that a model does not have; not changed
    before: (m,) int64, what the step before sampled; None if no row has a pending token
    ->  (n,) int64
    """
    adjusted = _adjusted(logits.float(), rows, before)
    greedy = [row.is_greedy for row in rows]
    if all(greedy):
        return adjusted.argmax(dim=-1)  # (n,)
    drawn = _draw(adjusted, rows)  # (n,)
    if not any(greedy):
        return drawn
    is_greedy = to_device(greedy, torch.bool, logits.device)
    return torch.where(is_greedy, adjusted.argmax(dim=-1), drawn)


def score(logits: torch.Tensor, tokens: torch.Tensor, num_best: int) -> Scores:
    """Log-probabilities of given tokens, and of the likeliest at each row.

    logits: (n, V)   tokens: (n,) int64   num_best: how many of the likeliest, at most
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)  # (n, V)
    values, best = logprobs.topk(min(num_best, logits.shape[1]), dim=-1)  # (n, k) each
    return Scores(tokens, logprobs.gather(1, tokens.unsqueeze(1))[:, 0], best, values)


def _adjusted(
    logits: torch.Tensor, rows: Sequence[SamplingRow], before: torch.Tensor | None
) -> torch.Tensor:
    """Apply penalties, then biases, then bans.   logits: (n, V), not changed  ->  (n, V)"""
    settings = [row.sampling for row in rows]
    if any(row.is_repetitive for row in rows):
        penalty = _column([s.repetition_penalty for s in settings], logits.device)  # (n, 1)
        seen = _counts(logits, rows, before, lambda r: r.tokens if r.is_repetitive else None)
        penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(seen > 0, penalized, logits)
    if any(row.is_penalized for row in rows):
        counts = _counts(
            logits, rows, before, lambda r: r.tokens[r.prompt_length :] if r.is_penalized else None
        )
        frequency = _column([s.frequency_penalty for s in settings], logits.device)
        presence = _column([s.presence_penalty for s in settings], logits.device)
        logits = logits - counts * frequency - (counts > 0) * presence
    return _biased(logits, rows)


def _biased(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Apply biases, then bans.   logits: (n, V), not changed  ->  (n, V)"""
    size = logits.shape[1]
    biases: dict[int, float] = {}
    banned: list[int] = []
    for at, row in enumerate(rows):
        for token, bias in row.sampling.logit_bias:
            if 0 <= token < size:
                biases[at * size + token] = biases.get(at * size + token, 0.0) + bias
        banned += [at * size + token for token in sorted(row.banned) if 0 <= token < size]
    flat = logits.flatten()  # (n*V,)
    if biases:
        index = to_device(list(biases), torch.int64, logits.device)
        values = to_device(list(biases.values()), torch.float32, logits.device)
        flat = flat.index_add(0, index, values)
    if banned:
        index = to_device(banned, torch.int64, logits.device)
        flat = flat.index_fill(0, index, float("-inf"))
    return flat.view_as(logits)


def _counts(
    logits: torch.Tensor,
    rows: Sequence[SamplingRow],
    before: torch.Tensor | None,
    known: Callable[[SamplingRow], Iterable[int] | None],
) -> torch.Tensor:
    """How often each token occurs in a row's tokens: the known ones, and the pending one.

    logits: (n, V)   known: None for a row that is not counted  ->  (n, V)
    """
    size = logits.shape[1]
    counted = [(at, row, known(row)) for at, row in enumerate(rows)]
    index = to_device(
        [at * size + token for at, _, tokens in counted for token in tokens or ()],
        torch.int64,
        logits.device,
    )
    pending = [
        (at * size, row.pending)
        for at, row, tokens in counted
        if tokens is not None and row.pending is not None
    ]
    if pending and before is not None:
        offsets = to_device([offset for offset, _ in pending], torch.int64, logits.device)
        sources = to_device([source for _, source in pending], torch.int64, logits.device)
        index = torch.cat([index, before[sources] + offsets])
    counts = torch.zeros_like(logits).flatten()  # (n*V,)
    return counts.scatter_add(0, index, torch.ones_like(index, dtype=counts.dtype)).view_as(logits)


def _draw(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Draw from each row's filtered distribution.   logits: (n, V)  ->  (n,)"""
    device = logits.device
    temperatures = _column([1.0 if r.is_greedy else r.sampling.temperature for r in rows], device)
    probabilities = torch.softmax(logits / temperatures, dim=-1)  # (n, V)
    if any(r.sampling.top_k or r.sampling.top_p < 1 or r.sampling.min_p for r in rows):
        probabilities = _filtered(probabilities, rows)
    numbers = [uniform(row.sampling.seed, row.position) for row in rows]
    return _inverted(probabilities, to_device(numbers, torch.float64, device).unsqueeze(1))


def _inverted(probabilities: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The tokens at which the running sums of probabilities first exceed these shares of the total.

    probabilities: (n, V)   numbers: (n, 1) float64 in [0, 1)  ->  (n,). In vocabulary
    order, not in order of probability, so that rounding which swaps two nearly equal tokens does
    not move the others. Finds the stretch of the vocabulary first, then the token in it.
    """
    size = probabilities.shape[1]
    padded = F.pad(probabilities, (0, -size % STRETCH))  # (n, s*STRETCH)
    stretches = padded.unflatten(1, (-1, STRETCH))  # (n, s, STRETCH)
    sums = stretches.sum(dim=-1).double()  # (n, s)
    ends = sums.cumsum(dim=-1)  # (n, s)
    wanted = numbers * ends[:, -1:]  # (n, 1)
    at = torch.minimum(torch.searchsorted(ends, wanted, right=True), _last_positive(sums))
    index = at.unsqueeze(2).expand(-1, 1, STRETCH)  # (n, 1, STRETCH)
    stretch = stretches.gather(1, index)[:, 0].double()  # (n, STRETCH)
    rest = (wanted - ends.gather(1, at) + sums.gather(1, at)).clamp_min(0)
    token = torch.searchsorted(stretch.cumsum(dim=-1), rest, right=True)  # (n, 1)
    return (at * STRETCH + torch.minimum(token, _last_positive(stretch)))[:, 0]  # (n,)


def _last_positive(values: torch.Tensor) -> torch.Tensor:
    """The last index at which each row is positive.   values: (n, m)  ->  (n, 1)"""
    behind = (values.flip(1) > 0).to(torch.int8).argmax(dim=1, keepdim=True)
    return values.shape[1] - 1 - behind


def _column(values: list[float], device: torch.device) -> torch.Tensor:
    return to_device(values, torch.float32, device).unsqueeze(1)


def _filtered(probabilities: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Zero what top-k, then top-p, then min-p exclude.   probabilities: (n, V)  ->  (n, V)

    Tokens as likely as the last one kept are kept too.
    """
    device, size = probabilities.device, probabilities.shape[1]
    settings = [row.sampling for row in rows]
    most = [s.top_k if s.top_k < size else 0 for s in settings]
    is_limited = [bool(count) or s.top_p < 1 for count, s in zip(most, settings, strict=True)]
    shares = _column([s.top_p for s in settings], device)
    counts = [
        (count or size) if limited else 1 for count, limited in zip(most, is_limited, strict=True)
    ]
    likeliest = _likeliest(probabilities, counts, shares)  # (n, c), descending
    sums = likeliest.cumsum(dim=-1)  # (n, c)
    ranks = to_device([min(n, likeliest.shape[1]) for n in counts], torch.int64, device)
    ranks = ranks.unsqueeze(1)  # (n, 1)
    has_most = to_device([n > 0 for n in most], torch.bool, device).unsqueeze(1)
    total = torch.where(has_most, sums.gather(1, ranks - 1), 1.0)
    kept = sums - likeliest < shares * total
    kept &= torch.arange(likeliest.shape[1], device=device) < ranks
    least = likeliest.gather(1, kept.sum(dim=-1, keepdim=True).clamp_min(1) - 1)  # (n, 1)
    limited = to_device(is_limited, torch.bool, device).unsqueeze(1)
    floor = _column([s.min_p for s in settings], device) * likeliest[:, :1]
    least = torch.maximum(torch.where(limited, least, 0.0), floor)
    return probabilities * (probabilities >= least)


def _likeliest(
    probabilities: torch.Tensor, counts: Sequence[int], shares: torch.Tensor
) -> torch.Tensor:
    """The largest probabilities of each row, descending: `counts` of them, or all that top-p keeps.

    probabilities: (n, V)   shares: (n, 1), top-p  ->  (n, c). A count of V is no limit. On a
    CPU, sorting everything is slow, but asking whether a few are enough is not.
    """
    size = probabilities.shape[1]
    limits = [count for count in counts if count < size]
    if len(limits) == len(counts):
        return probabilities.topk(max(limits), dim=-1).values  # (n, c)
    if probabilities.device.type == "cpu" and max(limits, default=1) <= FEW < size:
        few = probabilities.topk(FEW, dim=-1).values  # (n, FEW)
        is_enough = few.cumsum(dim=-1)[:, -1:] >= shares
        unlimited = [index for index, count in enumerate(counts) if count == size]
        if bool(is_enough[unlimited].all()):
            return few
    return probabilities.sort(dim=-1, descending=True).values  # (n, V)

"""The next token of each sequence, from its logits. On the device; knows no scheduler.

A row's choice depends on its own logits, settings and random number alone, and the random number
on (seed, position) alone: so a seed gives the same text alone and in a full batch. Nothing here
waits for the device: neither the choice nor the token before it need be known to the host.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from serve_app.engine.request import Logprob, Sampling
from serve_app.engine.transfer import to_device

LEAST_TEMPERATURE = 1e-5
"""Below it a row is greedy: logits divided by less leave the range of float32."""


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """One row to sample.

    tokens: all known tokens, of which the first `prompt_length` are the prompt.
    banned: tokens that may not be chosen (stop tokens before `min_tokens`).
    pending: the row that the step before sampled for the sequence, where its token follows the
    known ones and is not known yet.
    """

    sampling: Sampling
    tokens: Sequence[int]
    prompt_length: int
    banned: frozenset[int]
    pending: int | None = None

    @property
    def position(self) -> int:
        """Of the token to sample."""
        return len(self.tokens) + (self.pending is not None)

    @property
    def is_greedy(self) -> bool:
        return self.sampling.temperature < LEAST_TEMPERATURE

    @property
    def is_repetitive(self) -> bool:
        """Whether tokens of prompt and answer are penalized."""
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
        """Of scores that are on the host. top: how many of the likeliest, for each row"""
        columns = (tensor.tolist() for tensor in self.tensors)
        return [
            Logprob(token, logprob, tuple(zip(ids[:count], values[:count], strict=True)))
            for token, logprob, ids, values, count in zip(*columns, top, strict=True)
        ]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the two arguments alone, the same on every device."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed % 2**64, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def sample(
    logits: torch.Tensor, rows: Sequence[SamplingRow], before: torch.Tensor | None = None
) -> torch.Tensor:
    """Choose a token for each row.

    logits: (n, V), -inf where a model has no such token; left as it is
    before: (m,) int64, what the step before sampled; None where no row has a pending token
    ->  (n,) int64
    """
    adjusted = _adjusted(logits.float(), rows, before)
    greedy = adjusted.argmax(dim=-1)
    if all(row.is_greedy for row in rows):
        return greedy
    drawn = _draw(adjusted, rows)
    is_greedy = to_device([row.is_greedy for row in rows], torch.bool, logits.device)
    return torch.where(is_greedy, greedy, drawn)


def score(logits: torch.Tensor, tokens: torch.Tensor, num_best: int) -> Scores:
    """Log-probabilities of given tokens, and the likeliest at each row.

    logits: (n, V)   tokens: (n,) int64   num_best: how many of the likeliest, at most
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    values, best = logprobs.topk(min(num_best, logits.shape[1]), dim=-1)
    return Scores(tokens, logprobs.gather(1, tokens.unsqueeze(1))[:, 0], best, values)


def _adjusted(
    logits: torch.Tensor, rows: Sequence[SamplingRow], before: torch.Tensor | None
) -> torch.Tensor:
    """Apply penalties, then biases, then bans.   logits: (n, V), left as it is  ->  (n, V)"""
    settings = [row.sampling for row in rows]
    if any(row.is_repetitive for row in rows):
        penalty = _column([s.repetition_penalty for s in settings], logits.device)
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
    """Apply biases, then bans.   logits: (n, V), left as it is  ->  (n, V)"""
    size = logits.shape[1]
    biases: dict[int, float] = {}
    banned: list[int] = []
    for at, row in enumerate(rows):
        for token, bias in row.sampling.logit_bias:
            if 0 <= token < size:
                biases[at * size + token] = biases.get(at * size + token, 0.0) + bias
        banned += [at * size + token for token in sorted(row.banned) if 0 <= token < size]
    flat = logits.flatten()
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
    """How often each token is among some of a row's: those that are known, and the pending one.

    logits: (n, V)   known: None for a row of which nothing is counted  ->  (n, V)
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
    counts = torch.zeros_like(logits).flatten()
    return counts.scatter_add(0, index, torch.ones_like(index, dtype=counts.dtype)).view_as(logits)


def _draw(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Draw from each row's filtered distribution, by inversion in vocabulary order.

    logits: (n, V)  ->  (n,). Vocabulary order, not order of probability, so that rounding which
    swaps two near-equal tokens does not move the others.
    """
    device = logits.device
    temperatures = _column([1.0 if r.is_greedy else r.sampling.temperature for r in rows], device)
    probabilities = torch.softmax(logits / temperatures, dim=-1)
    if any(r.sampling.top_k or r.sampling.top_p < 1 or r.sampling.min_p for r in rows):
        probabilities = _filtered(probabilities, rows)
    cumulative = probabilities.double().cumsum(dim=-1)
    numbers = [uniform(row.sampling.seed, row.position) for row in rows]
    wanted = to_device(numbers, torch.float64, device).unsqueeze(1)
    drawn = torch.searchsorted(cumulative, wanted * cumulative[:, -1:], right=True)[:, 0]
    last = logits.shape[1] - 1 - (probabilities.flip(1) > 0).to(torch.int8).argmax(dim=1)
    return torch.minimum(drawn, last)


def _column(values: list[float], device: torch.device) -> torch.Tensor:
    return to_device(values, torch.float32, device).unsqueeze(1)


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

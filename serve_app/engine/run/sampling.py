"""Samples the next token of each sequence from its logits, on the device. Schedules nothing.

A row's choice depends only on its own logits, settings and random numbers, and these only on
(seed, position). So a seed gives the same text alone and in a full batch. Nothing here waits for a
device other than the CPU: the host need not know the choice, nor the token before it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from serve_app.engine.device.cores import on_cores
from serve_app.engine.device.native.rows import Rows
from serve_app.engine.request import Logprob, Sampling
from serve_app.engine.run.draws import column, draw
from serve_app.engine.run.masking import masked
from serve_app.engine.step.transfer import to_device

LEAST_TEMPERATURE = 1e-5
"""Below this a row is greedy: logits divided by less would leave the range of float32."""
BLOCK_LOGITS = 1 << 18
"""On a CPU, about this many logits are sampled from at a time, on one core: they stay in its cache,
and their memory is used again instead of being asked of the system for each operation."""


class SamplingRow(NamedTuple):
    """One row to sample.

    tokens: all known tokens, of which the first `prompt_length` are the prompt.
    num_inputs: how many of those are the input of an encoder, which no penalty looks at.
    banned: tokens that may not be chosen (stop tokens before `min_tokens`).
    pending: the row that the step before sampled for the sequence, if that token follows the known
    ones and the host does not know it yet.
    is_plain: known to take the likeliest token of the model, and to ban none.
    mask: the row of the masks that says which tokens may be chosen; None if all may.
    """

    sampling: Sampling
    tokens: Sequence[int]
    prompt_length: int
    banned: frozenset[int]
    pending: int | None = None
    is_plain: bool = False
    mask: int | None = None
    num_inputs: int = 0

    @property
    def position(self) -> int:
        """The position of the token to sample."""
        return len(self.tokens) + (self.pending is not None)

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


def sample(
    logits: torch.Tensor,
    rows: Sequence[SamplingRow],
    before: torch.Tensor | None = None,
    code: Rows | None = None,
    masks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Choose a token for each row.

    logits: (n, V), -inf for tokens that a model does not have; not changed
    before: (m,) int64, what the step before sampled; None if no row has a pending token
    code: compiled code for this device, if there is any
    masks: (k, W) int32, bit b of word w for token 32 w + b; None if no row has one
    ->  (n,) int64
    """
    if all(row.is_plain for row in rows):
        return _likeliest(logits, code)
    if logits.device.type != "cpu":
        return _chosen(logits, rows, before, code, masks)
    count = max(1, BLOCK_LOGITS // logits.shape[1])
    with on_cores(1):
        blocks = [
            _chosen(logits[start : start + count], rows[start : start + count], before, code, masks)
            for start in range(0, max(1, len(rows)), count)
        ]
    return torch.cat(blocks)


def is_plain(sampling: Sampling) -> bool:
    """Whether these settings take the likeliest token of the model as it is."""
    changes = sampling.presence_penalty or sampling.frequency_penalty or sampling.logit_bias
    changes = changes or sampling.repetition_penalty != 1.0
    return sampling.temperature < LEAST_TEMPERATURE and not changes


def _chosen(
    logits: torch.Tensor,
    rows: Sequence[SamplingRow],
    before: torch.Tensor | None,
    code: Rows | None,
    masks: torch.Tensor | None,
) -> torch.Tensor:
    """See `sample`."""
    adjusted = _adjusted(logits, rows, before)
    if masks is not None:
        adjusted = masked(adjusted, [row.mask for row in rows], masks)
    settings = [row.sampling for row in rows]
    greedy = [s.temperature < LEAST_TEMPERATURE for s in settings]
    if all(greedy):
        return _likeliest(adjusted, code)  # (n,)
    temperatures = [
        1.0 if is_greedy else s.temperature for is_greedy, s in zip(greedy, settings, strict=True)
    ]
    divided = adjusted.float() / column(temperatures, logits.device)  # (n, V)
    drawn = draw(divided, settings, [row.position for row in rows])  # (n,)
    if not any(greedy):
        return drawn
    is_greedy = to_device(greedy, torch.bool, logits.device)
    return torch.where(is_greedy, _likeliest(adjusted, code), drawn)


def _likeliest(logits: torch.Tensor, code: Rows | None) -> torch.Tensor:
    """The first of the largest of each row.   logits: (n, V)  ->  (n,)

    On a CPU without compiled code by numpy, since torch takes twenty times as long.
    """
    if code is not None and logits.dtype == torch.bfloat16:
        return code.likeliest(logits.contiguous())
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.float().numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


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
    """Apply penalties, then biases, then bans, in float32.

    logits: (n, V), not changed  ->  (n, V); as they are if nothing applies
    """
    settings = [row.sampling for row in rows]
    if any(s.repetition_penalty != 1.0 for s in settings):
        logits = logits.float()
        penalty = column([s.repetition_penalty for s in settings], logits.device)  # (n, 1)
        seen = _counts(logits, rows, before, _repeated)
        penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
        logits = torch.where(seen > 0, penalized, logits)
    if any(s.presence_penalty or s.frequency_penalty for s in settings):
        logits = logits.float()
        counts = _counts(
            logits, rows, before, lambda r: r.tokens[r.prompt_length :] if r.is_penalized else None
        )
        frequency = column([s.frequency_penalty for s in settings], logits.device)
        presence = column([s.presence_penalty for s in settings], logits.device)
        logits = logits - counts * frequency - (counts > 0) * presence
    return _biased(logits, rows)


def _repeated(row: SamplingRow) -> Sequence[int] | None:
    """What must not be repeated: tokens of the decoder; None where all may be."""
    return row.tokens[row.num_inputs :] if row.is_repetitive else None


def _biased(logits: torch.Tensor, rows: Sequence[SamplingRow]) -> torch.Tensor:
    """Apply biases, then bans.   logits: (n, V), not changed  ->  (n, V)"""
    if not any(row.sampling.logit_bias or row.banned for row in rows):
        return logits
    size = logits.shape[1]
    biases: dict[int, float] = {}
    banned: list[int] = []
    for at, row in enumerate(rows):
        for token, bias in row.sampling.logit_bias:
            if 0 <= token < size:
                biases[at * size + token] = biases.get(at * size + token, 0.0) + bias
        banned += [at * size + token for token in sorted(row.banned) if 0 <= token < size]
    flat = logits.float().flatten()  # (n*V,)
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

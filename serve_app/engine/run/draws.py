"""Draws tokens of what top-k, top-p and min-p keep. Applies no temperature, penalty or bias.

A draw goes through the vocabulary in order, to where the running sum of probabilities exceeds a
number that depends only on seed and position.
"""

import hashlib
import struct
from collections.abc import Sequence
from math import inf

import torch
from torch.nn import functional as F

from serve_app.engine.request import Sampling
from serve_app.engine.step.transfer import to_device

STRETCH = 128
"""How many probabilities are summed together to find the stretch of the vocabulary to look in."""


def uniform(seed: int, position: int, attempt: int = 0) -> float:
    """A number in [0, 1) that depends only on the arguments, the same on every device."""
    numbers = struct.pack("<QQ", seed % 2**64, position)
    if attempt:
        numbers += struct.pack("<Q", attempt)
    digest = hashlib.blake2b(numbers, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def draw(
    logits: torch.Tensor, settings: Sequence[Sampling], positions: Sequence[int]
) -> torch.Tensor:
    """Draw from each row's filtered distribution.

    logits: (n, V) float32, divided by the temperatures   positions: of the drawn tokens
    ->  (n,) int64
    """
    probabilities = torch.softmax(logits, dim=-1)  # (n, V)
    if not any(s.top_k or s.top_p < 1 or s.min_p for s in settings):
        return inverted(probabilities, _numbers(settings, positions, logits.device))
    if logits.device.type == "cpu":
        return _by_attempts(probabilities, settings, positions)
    kept = filtered(probabilities, settings)
    return inverted(kept, _numbers(settings, positions, logits.device))


def _numbers(
    settings: Sequence[Sampling], positions: Sequence[int], device: torch.device, attempt: int = 0
) -> torch.Tensor:
    """->  (n, 1) float64 in [0, 1)"""
    drawn = [uniform(s.seed, at, attempt) for s, at in zip(settings, positions, strict=True)]
    return to_device(drawn, torch.float64, device).unsqueeze(1)


def _by_attempts(
    probabilities: torch.Tensor, settings: Sequence[Sampling], positions: Sequence[int]
) -> torch.Tensor:
    """Draw from everything until what is drawn is kept. Where the host may look, that is far
    cheaper than sorting. Top-k is applied first, as it keeps too little.

    probabilities: (n, V), which may be changed  ->  (n,)

    A token is kept if less than top-p is likelier, and it has min-p of the likeliest's chance. So
    nothing is kept that is no likelier than a refused token, and the next attempt leaves it out.
    After FlashInfer ("Sorting-Free GPU Kernels for LLM Sampling", 2025).
    """
    size = probabilities.shape[1]
    limited = [at for at, s in enumerate(settings) if 0 < s.top_k < size]
    if limited:
        probabilities[limited] = filtered(probabilities[limited], [settings[at] for at in limited])
    is_limited = set(limited)
    shares = column(
        [s.top_p if s.top_p < 1 and at not in is_limited else inf for at, s in enumerate(settings)],
        probabilities.device,
    )
    floors = column([s.min_p for s in settings], probabilities.device)
    floors *= probabilities.amax(dim=-1, keepdim=True)  # (n, 1)
    left = torch.arange(len(settings))
    found = torch.empty_like(left)
    attempt = 0
    while len(left):
        asked = left.tolist()
        numbers = _numbers(
            [settings[at] for at in asked], [positions[at] for at in asked], left.device, attempt
        )
        drawn = inverted(probabilities, numbers)  # (m,)
        found[left] = drawn
        chance = probabilities.gather(1, drawn.unsqueeze(1))  # (m, 1)
        likelier = torch.gt(probabilities, chance, out=torch.empty_like(probabilities))
        likelier *= probabilities  # (m, V)
        more = likelier.sum(dim=-1, keepdim=True)  # (m, 1)
        # Not if nothing is likelier, nor if logits are no numbers: then no comparison holds.
        refuses = (more > 0) & ((more >= shares) | (chance < floors))
        refused = refuses[:, 0].nonzero()[:, 0]
        left, probabilities = left[refused], likelier[refused]
        shares, floors = shares[refused], floors[refused]
        attempt += 1
    return found


def inverted(probabilities: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The tokens at which the running sums of probabilities first exceed these shares of the total.

    probabilities: (n, V)   numbers: (n, 1) float64 in [0, 1)  ->  (n,). In vocabulary
    order, not in order of probability, so that rounding which swaps two nearly equal tokens does
    not move the others. Finds the stretch of the vocabulary first, then the token in it.
    """
    size = probabilities.shape[1]
    if size % STRETCH:
        probabilities = F.pad(probabilities, (0, -size % STRETCH))  # (n, s*STRETCH)
    stretches = probabilities.unflatten(1, (-1, STRETCH))  # (n, s, STRETCH)
    sums = stretches.sum(dim=-1).double()  # (n, s)
    ends = sums.cumsum(dim=-1)  # (n, s)
    wanted = numbers * ends[:, -1:]  # (n, 1)
    at = torch.minimum(torch.searchsorted(ends, wanted, right=True), _last_positive(sums))
    index = at.unsqueeze(2).expand(-1, 1, STRETCH)  # (n, 1, STRETCH)
    stretch = stretches.gather(1, index)[:, 0].double()  # (n, STRETCH)
    rest = (wanted - ends.gather(1, at) + sums.gather(1, at)).clamp_min(0)
    token = torch.searchsorted(stretch.cumsum(dim=-1), rest, right=True)  # (n, 1)
    token = at * STRETCH + torch.minimum(token, _last_positive(stretch))
    return token[:, 0].clamp_max(size - 1)  # (n,); beyond it only if nothing is positive


def _last_positive(values: torch.Tensor) -> torch.Tensor:
    """The last index at which each row is positive.   values: (n, m)  ->  (n, 1)"""
    behind = (values.flip(1) > 0).to(torch.int8).argmax(dim=1, keepdim=True)
    return values.shape[1] - 1 - behind


def column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    """(n, 1) float32"""
    return to_device(values, torch.float32, device).unsqueeze(1)


def filtered(probabilities: torch.Tensor, settings: Sequence[Sampling]) -> torch.Tensor:
    """Zero what top-k, then top-p, then min-p exclude.   probabilities: (n, V)  ->  (n, V)

    Tokens as likely as the last one kept are kept too.
    """
    device, size = probabilities.device, probabilities.shape[1]
    most = [s.top_k if s.top_k < size else 0 for s in settings]
    is_limited = [bool(count) or s.top_p < 1 for count, s in zip(most, settings, strict=True)]
    shares = column([s.top_p for s in settings], device)
    counts = [
        (count or size) if limited else 1 for count, limited in zip(most, is_limited, strict=True)
    ]
    likeliest = _largest(probabilities, counts)  # (n, c), descending
    sums = likeliest.cumsum(dim=-1)  # (n, c)
    ranks = to_device([min(n, likeliest.shape[1]) for n in counts], torch.int64, device)
    ranks = ranks.unsqueeze(1)  # (n, 1)
    has_most = to_device([n > 0 for n in most], torch.bool, device).unsqueeze(1)
    total = torch.where(has_most, sums.gather(1, ranks - 1), 1.0)
    kept = sums - likeliest < shares * total
    kept &= torch.arange(likeliest.shape[1], device=device) < ranks
    least = likeliest.gather(1, kept.sum(dim=-1, keepdim=True).clamp_min(1) - 1)  # (n, 1)
    limited = to_device(is_limited, torch.bool, device).unsqueeze(1)
    floor = column([s.min_p for s in settings], device) * likeliest[:, :1]
    least = torch.maximum(torch.where(limited, least, 0.0), floor)
    return probabilities * (probabilities >= least)


def _largest(probabilities: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """The largest probabilities of each row, descending: `counts` of them; V is no limit.

    probabilities: (n, V)  ->  (n, c)
    """
    if max(counts) < probabilities.shape[1]:
        return probabilities.topk(max(counts), dim=-1).values  # (n, c)
    return probabilities.sort(dim=-1, descending=True).values  # (n, V)

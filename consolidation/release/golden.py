"""Golden prompts: what a model of a release must answer, and how close is close enough."""

from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, model_validator

from representation.decimals import plain

TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""The largest allowed difference of a logit, by the dtype of the computation, relative to the
largest golden logit or to 1, whichever is more. Another machine adds in another order; wrong
weights are off by far more. The tolerance of the less precise of the two dtypes counts."""


class Golden(BaseModel):
    """What a model must answer: greedy tokens, and the largest logits at each of them.

    `top[i]` are (token, logit) pairs, largest first, of the position that gave `tokens[i]`;
    computed in `dtype` from the release's own weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    dtype: str

    @model_validator(mode="after")
    def _logits_for_each_token(self) -> Self:
        if len(self.top) != len(self.tokens):
            raise ValueError(
                f"{len(self.tokens)} golden tokens with {len(self.top)} sets of logits"
            )
        return self


def golden_tolerance(golden: Golden, dtype: str) -> float:
    """The difference allowed between golden logits and logits computed in `dtype`."""
    largest = max((abs(value) for row in golden.top for _, value in row), default=0.0)
    return max(TOLERANCES[dtype], TOLERANCES[golden.dtype]) * max(1.0, largest)


def golden_findings(golden: Golden, logits: torch.Tensor, dtype: str) -> list[str]:
    """What is wrong with logits computed in `dtype`; empty if they are close enough.

    logits: (len(golden.tokens), V), at the positions that predict the golden tokens, with the
    golden prompt and tokens as input. Another token may have the largest logit only within the
    tolerance.
    """
    tolerance = golden_tolerance(golden, dtype)
    findings = []
    for position, (token, top) in enumerate(zip(golden.tokens, golden.top, strict=True)):
        row = logits[position].float()
        worst = max((abs(float(row[t]) - value) for t, value in top), default=0.0)
        behind = float(row.max()) - float(row[token])
        if not worst <= tolerance or not behind <= tolerance:
            findings.append(
                f"golden token {position} ({token}): logits differ by up to {plain(worst)} and it "
                f"is {plain(behind)} below the largest; at most {plain(tolerance)} is allowed"
            )
    return findings

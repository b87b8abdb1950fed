"""Golden prompts: what a model of a release must answer, and how close is close enough."""

import torch

from consolidation.release.manifest import Golden
from representation.decimals import plain

TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""The largest allowed difference of a logit, by the dtype of the computation, relative to the
largest golden logit or to 1, whichever is more. Another machine adds in another order; wrong
weights are off by far more. The tolerance of the less precise of the two dtypes counts."""


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

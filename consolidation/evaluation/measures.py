"""How far models are from their originals. Only values; `reference` computes them.

`docs/quality.md` defines each of them.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model under one method, compared with its original. None: it has no text, or no task.

    `kl` is KL(original || method) in nats per token, over `tokens` positions: every token of a text
    but the first of each window, and the first token of a task's answers. With both, `kl`, token
    and router agreement are the mean of the two. `predicted_kl` is what a release's plan expected.
    """

    model: str
    kl: float
    perplexity: float | None
    perplexity_original: float | None
    accuracy: float | None
    accuracy_original: float | None
    token_agreement: float
    router_agreement: tuple[float, ...]
    tokens: int
    predicted_kl: float | None = None


@dataclass(frozen=True, slots=True)
class MethodScore:
    """Every model under one method.

    `expert_bytes` are the method's own, for all models it covers; `bytes_of_one_model` is their
    ratio to the experts of one model as its checkpoint has them.
    """

    method: str
    expert_bytes: int
    bytes_of_one_model: float
    models: tuple[ModelScore, ...]

    @property
    def mean_kl(self) -> float:
        """The mean over models, with equal weights."""
        return math.fsum(one.kl for one in self.models) / len(self.models)

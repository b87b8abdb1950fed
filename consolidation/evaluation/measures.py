"""How far models are from their originals, in numbers: values only, made by `reference`.

`docs/quality.md` defines every one of them.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model under one method, beside its original. None: it has no text, or no task.

    `kl` is KL(original || method) in nats per token, over `tokens` positions: a text's every
    token but each window's first, a task's answers' first; where there are both, `kl`, token and
    router agreement are the mean of the two. `predicted_kl` is what the plan of a release expected.
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
        """The mean over models, each counting the same."""
        return math.fsum(one.kl for one in self.models) / len(self.models)

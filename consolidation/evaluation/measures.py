"""How far models are from their originals. Only values; `reference` computes them.

`docs/quality.md` defines each of them.
"""

import math
from dataclasses import dataclass


def retained(kl: float, kl_base: float | None) -> float | None:
    """The share of a model's effect that is kept: 1 where nothing is lost, 0 where the base is as
    close. None if the effect is not known, or there is none.
    """
    return 1 - kl / kl_base if kl_base else None


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model under one method, compared with its original. None: it has no text, or no task.

    `kl` is KL(original || method) in nats per token, over `tokens` positions: every token of a text
    but the first of each window, and the first token of a task's answers. `kl_99` and `kl_999` are
    its percentiles over these positions, and `rms_dp` is the root mean square of what the
    probability of the token that stands there has moved. With both, all of these, token and router
    agreement are the mean of the two. `predicted_kl` is what a release's plan expected,
    and `kl_base` KL(original || base), the model's effect.
    """

    model: str
    kl: float
    kl_99: float
    kl_999: float
    rms_dp: float
    perplexity: float | None
    perplexity_original: float | None
    accuracy: float | None
    accuracy_original: float | None
    token_agreement: float
    router_agreement: tuple[float, ...]
    tokens: int
    predicted_kl: float | None = None
    kl_base: float | None = None

    @property
    def retained(self) -> float | None:
        """The share of the model's effect that is kept; None if the base was not measured."""
        return retained(self.kl, self.kl_base)


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

"""What a manifest says of a model's quality. Measures nothing."""

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

ADDED = frozenset({"kl_99", "kl_999", "rms_dp", "same_top", "kl_base", "retained", "routers"})
"""Fields of `Quality` that came later: left out where they are not known."""


class Quality(BaseModel):
    """How far a model of the release is from its original. `kl` in nats per token.

    `kl_99` and `kl_999` are its percentiles over tokens, `rms_dp` the root mean square of what the
    probability of the token that stands in the text has moved, `same_top` the share of tokens of
    which both find the same one the most probable; None in older manifests. `kl_base` is the
    model's divergence from its base, and `retained` the share of it that is kept, if there was a
    base. `routers` says by layer of experts of which share of tokens both prefer the same expert;
    None where nothing was merged, and in older manifests. Accuracies are shares of a task's
    answers, if a task was given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kl: float
    kl_99: float | None = None
    kl_999: float | None = None
    rms_dp: float | None = None
    same_top: float | None = None
    kl_base: float | None = None
    retained: float | None = None
    routers: tuple[float, ...] | None = None
    predicted_kl: float | None = None
    perplexity_original: float
    perplexity_release: float
    accuracy_original: float | None = None
    accuracy_release: float | None = None
    tokens: Annotated[int, Field(ge=0)]

    @model_serializer(mode="wrap")
    def _as_it_was(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what an older manifest does not have, so that it stays what it was."""
        found: dict[str, Any] = dump(self)
        return {name: v for name, v in found.items() if v is not None or name not in ADDED}

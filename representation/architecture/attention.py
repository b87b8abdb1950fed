"""What a model's attention looks like from outside. Computes none."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Heads and dimensions of one attention layer. softcap: on its scores; None: there is none."""

    query_heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    softcap: float | None = None

    @property
    def width(self) -> int:
        """Numbers stored for one token."""
        return self.kv_heads * (self.key_dim + self.value_dim)

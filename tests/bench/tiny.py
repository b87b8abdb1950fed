"""Shapes so small that a step takes a millisecond."""

from typing import Any

from serve_app.bench.weights.shapes import SHAPES


def tiny_config(**others: Any) -> dict[str, Any]:
    """Of the bars' architecture: 2 layers of 4 experts."""
    small: dict[str, Any] = {
        "vocab_size": 320,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "max_position_embeddings": 256,
    }
    return SHAPES["mixtral-115m"].config(2, **small | others)

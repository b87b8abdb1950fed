"""Models as Anthropic lists them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from serve_app.protocol.messages import ModelCard


def model_info(card: ModelCard) -> dict[str, Any]:
    """Prompt and answer share the context, so either may have nearly all of it, where a prompt has
    no limit of its own."""
    return {
        "type": "model",
        "id": card["id"],
        "display_name": card["id"],
        "created_at": datetime.fromtimestamp(card["created"], UTC).isoformat(),
        "lifecycle": "active",
        "max_input_tokens": card["max_prompt_len"],
        "max_tokens": card["max_model_len"],
    }


def model_infos(cards: Sequence[ModelCard]) -> dict[str, Any]:
    """All on one page."""
    infos = [model_info(card) for card in cards]
    return {
        "data": infos,
        "has_more": False,
        "first_id": infos[0]["id"] if infos else None,
        "last_id": infos[-1]["id"] if infos else None,
    }

"""Which parts of contents are of other media than text, in every protocol. Reads none of them."""

from typing import Any

MEDIA = ("image", "audio", "video")
"""Words in the types of such parts: `image_url`, `input_audio`, …"""
TEXT_ALONE = "text models are served, without the towers that a model may have for other media"


def is_media(kind: Any) -> bool:
    """Whether a part of this type is of another medium."""
    return isinstance(kind, str) and any(medium in kind for medium in MEDIA)

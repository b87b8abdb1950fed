"""The text of a key, and its digest, which alone is stored. Knows no tenant."""

import hashlib
import secrets

PREFIX = "sk-ep-"
ID_DIGITS = 12
"""Of a digest: so much names a key to people, in lists and in usage records."""
_RANDOM_BYTES = 32


def new_key() -> str:
    """`sk-ep-` and 256 random bits in URL-safe base64."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def digest_of(key: str) -> str:
    """SHA-256 in hexadecimal digits. A key is random throughout, so it needs no salt."""
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def id_of(digest: str) -> str:
    """The name of the key with this digest."""
    return digest[:ID_DIGITS]

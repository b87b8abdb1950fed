"""What families, models and channels may be called. Knows none of them."""

import re

NAME_RULE = "a letter or digit, then letters, digits, '.', '_', ':', '-'"
"""Names become parts of paths and of URLs."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:-]*"


def valid_name(name: str) -> bool:
    """Whether a family, model or channel may have this name."""
    return re.fullmatch(NAME_PATTERN, name) is not None

"""What a log line is about, beside its words: facts by name. Never what was asked or answered."""

from typing import Any

FACTS, KIND = "about", "kind"
ACCESS, JOBS = "serve_app.access", "serve_app.jobs"
"""Loggers with a line for each request: of the ingress, and of the engine."""


def about(*, kind: str | None = None, is_limited: bool = True, **facts: Any) -> dict[str, Any]:
    """For `extra` of a call of `logging`.   Facts that are None are left out.

    kind: of lines that are counted together when they are too many; None: those with the same
    words.   is_limited: whether there may be too many.
    """
    found: dict[str, Any] = {FACTS: {k: v for k, v in facts.items() if v is not None}}
    if not is_limited or kind is not None:
        found[KIND] = kind
    return found

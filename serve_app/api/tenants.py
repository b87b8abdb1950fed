"""Whose request it is. The one place that says so; there are no keys yet, so it is `default`."""

from starlette.requests import Request

DEFAULT = "default"


def tenant_of(request: Request) -> str:
    """The tenant that `request` is queued and counted under."""
    del request
    return DEFAULT

"""Whose request it is. The only place that decides this; without keys, it is always `default`."""

from dataclasses import dataclass

from starlette.requests import Request


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whom requests are queued and counted under. weight: twice the weight is twice the share."""

    id: str
    weight: float = 1.0


DEFAULT = Tenant("default")


def tenant_of(request: Request) -> Tenant:
    """The tenant of `request`."""
    del request
    return DEFAULT

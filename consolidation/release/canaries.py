"""Canaries: a second release beside a channel's, and whose requests it answers. Reads no manifest.

A canary is tried on a share of requests before the channel moves to it.
"""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Side = Literal["stable", "canary"]
"""stable: the release of the channel, whatever the channel's name."""


class Canary(BaseModel):
    """The canary of a channel; `release` is None when there is none any more.

    percent: of the requests that no tenant's name decides.   tenants: those that are always on one
    side.   at: when it was changed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: Annotated[str, Field(min_length=1)] | None
    percent: float = Field(ge=0, le=100, allow_inf_nan=False)
    tenants: dict[str, Side] = {}
    at: datetime

    @classmethod
    def none(cls, at: datetime) -> Self:
        """What stands there once a canary was promoted or aborted."""
        return cls(release=None, percent=0, at=at)

    @model_validator(mode="after")
    def _has_a_release(self) -> Self:
        if self.release is None and (self.percent or self.tenants):
            raise ValueError("there is a share, but no release")
        return self

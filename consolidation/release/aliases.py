"""Aliases: names that tenants use, the models they stand for, and defaults. Reads no manifest."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from representation.names import NAME_RULE, valid_name

RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0.01, 100),
}
"""The sampling parameters that an alias may set, and their least and largest values."""


def _name(value: object) -> object:
    if isinstance(value, str) and not valid_name(value):
        raise ValueError(f"{value!r} is not a name: {NAME_RULE}")
    return value


def check_sampling(value: object) -> object:
    """`value`, if it is a mapping of these parameters within their ranges. Raises ValueError."""
    for name, number in value.items() if isinstance(value, Mapping) else ():
        if name not in RANGES:
            raise ValueError(f"{name!r} is not one of {', '.join(RANGES)}")
        least, most = RANGES[name]
        if type(number) not in (int, float) or not least <= number <= most:
            raise ValueError(f"{name} {number!r} is not a number from {least:g} to {most:g}")
        if name == "top_k" and number != int(number):
            raise ValueError(f"top_k {number!r} is not a whole number")
    return value


Name = Annotated[str, BeforeValidator(_name)]


class Alias(BaseModel):
    """What a name stands for. A request's own fields come before these, a model's after.

    sampling: by the names in `RANGES`.   max_tokens: of an answer.   system: the first message of a
    chat that has no system message of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Name
    sampling: Annotated[dict[str, float], BeforeValidator(check_sampling)] = {}
    max_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    system: Annotated[str, Field(min_length=1)] | None = None
    chat_template_kwargs: dict[str, Any] = {}


class Aliases(BaseModel):
    """All aliases of a channel, and when they were changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    aliases: dict[Name, Alias]
    at: datetime

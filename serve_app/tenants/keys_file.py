"""What a keys file says: tenants, their keys and their limits. Reads text, not files.

tenants:
  acme:
    models: ["news-*"]            # names and globs; default: all
    weight: 2                     # twice the weight is twice the share; default: 1
    highest_class: standard       # batch, standard or interactive; default: interactive
    requests_per_minute: 600      # limits: without one, there is none
    tokens_per_minute: 100000     # of prompts and answers
    concurrent_requests: 16
    prompt_tokens: 8192           # the longest prompt
    answer_tokens: 1024           # the longest answer
    open_choices: 64              # waiting and running at once; a request has n for each prompt
    open_tokens: 100000           # of the prompts of those choices
    monthly_tokens: 5000000       # of prompts and answers, in a calendar month (UTC)
    keys:
      - sha256: 9f86d081…         # never the key itself
        scopes: [infer]           # infer, admin, metrics
        expires: 2027-01-01T00:00:00Z
"""

from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from representation.names import NAME_RULE, valid_name
from serve_app.service_class import ServiceClass
from serve_app.tenants.errors import BadKeys
from serve_app.tenants.key_text import id_of
from serve_app.units import in_utc


class KeyScope(StrEnum):
    """What a key is good for."""

    INFER = "infer"
    """Generate and tokenize text, and list models."""
    ADMIN = "admin"
    """See and change what is served."""
    METRICS = "metrics"
    """Read metrics and the reasons of `/health`."""


Moment = Annotated[datetime, AfterValidator(in_utc)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Key(_Strict):
    """One key, as its digest. It is good until `expires`, without end if that is None."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[KeyScope], Field(min_length=1)] = frozenset({KeyScope.INFER})
    expires: Moment | None = None

    @property
    def id(self) -> str:
        return id_of(self.sha256)

    def has_expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires


class Limits(_Strict):
    """What a tenant may use; None: as much as there is."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    prompt_tokens: Count | None = None
    answer_tokens: Count | None = None
    open_choices: Count | None = None
    open_tokens: Count | None = None
    monthly_tokens: Count | None = None


class Tenant(Limits):
    """Whom requests are queued and counted under."""

    models: tuple[str, ...] = ("*",)
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    highest_class: ServiceClass = ServiceClass.INTERACTIVE
    keys: tuple[Key, ...] = ()

    def may_use(self, model: str) -> bool:
        """Whether a name or glob of `models` matches."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)


class KeysFile(_Strict):
    """A whole file. No two keys have the same digest."""

    tenants: dict[str, Tenant] = {}

    @model_validator(mode="after")
    def _check(self) -> "KeysFile":
        seen: dict[str, str] = {}
        for name, tenant in self.tenants.items():
            if not valid_name(name):
                raise ValueError(f"tenant {name!r}: {NAME_RULE}")
            for key in tenant.keys:
                if key.sha256 in seen:
                    raise ValueError(
                        f"tenant {name!r}: key {key.id} is also tenant {seen[key.sha256]!r}'s"
                    )
                seen[key.sha256] = name
        return self

    @classmethod
    def parse(cls, text: str, where: str) -> "KeysFile":
        """YAML or JSON. Raises BadKeys, which names `where` and the field."""
        try:
            content = yaml.safe_load(text)
            return cls.model_validate({} if content is None else content)
        except (yaml.YAMLError, RecursionError) as error:
            raise BadKeys(f"keys file {where}: it is neither YAML nor JSON: {error}") from error
        except ValidationError as error:
            raise BadKeys(f"keys file {where}: {_first_of(error)}") from error

    @classmethod
    def parse_served(cls, text: str, where: str, *, has_records: bool) -> "KeysFile":
        """As `parse`, for an endpoint.   has_records: whether it writes usage records. Without
        them, a tenant with a budget is refused: after a restart nobody would know what it has used.
        """
        file = cls.parse(text, where)
        for name, tenant in file.tenants.items():
            if tenant.monthly_tokens is not None and not has_records:
                raise BadKeys(
                    f"keys file {where}: tenants.{name}.monthly_tokens needs usage records, which"
                    " say what was used before a restart: give --usage (`usage` in args)"
                )
        return file

    @property
    def has_budget(self) -> bool:
        """Whether any tenant has one for a month."""
        return any(tenant.monthly_tokens is not None for tenant in self.tenants.values())

    def text(self) -> str:
        """As YAML, without what is as by default."""
        plain = self.model_dump(mode="json", exclude_defaults=True)
        for tenant in plain.get("tenants", {}).values():
            for key in tenant.get("keys", ()):
                if "scopes" in key:
                    key["scopes"] = sorted(key["scopes"])
        text: str = yaml.safe_dump(plain, sort_keys=False)
        return text


def _first_of(error: ValidationError) -> str:
    """The first fault in words: where, what, and the value unless it may be a key."""
    first: Any = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message

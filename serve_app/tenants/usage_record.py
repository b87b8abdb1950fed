"""What one request was and cost: a line of JSON. Never what was asked or answered."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime


@dataclass(slots=True, kw_only=True)
class UsageRecord:
    """One request that was to generate text. Times are in seconds; None: it did not come to that.

    key: the id of the key.   model: as it was asked for, perhaps an alias.   answered_by: the model
    that answered, of `release`.   status: as it was sent, 499 if the client left before it was.
    finish: why the choices ended, `stop` and `length` where both occur as `length+stop`;
    `incomplete` if not all did.
    """

    time: str
    request: str
    tenant: str
    key: str
    model: str | None = None
    answered_by: str | None = None
    release: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0
    queue_s: float | None = None
    first_token_s: float | None = None
    total_s: float = 0.0
    status: int = 500
    finish: str | None = None

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.time)

    def line(self) -> str:
        """Ends with a line feed."""
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"

    @classmethod
    def of_line(cls, line: str) -> "UsageRecord":
        """Raises ValueError for what `line` did not write; fields that are not known are left."""
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        known = {name: value for name, value in found.items() if name in cls.__slots__}
        try:
            record = cls(**known)
            record.at  # noqa: B018  a time that is none is found here
        except TypeError as error:
            raise ValueError(str(error)) from error
        return record


def stamp(unix_s: float) -> str:
    """A time in UTC, to the millisecond."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")

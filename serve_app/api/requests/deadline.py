"""How long a request may take, as its header says, and what is left of that. Ends no request."""

import math
from dataclasses import dataclass
from time import monotonic

from starlette.requests import Request

from serve_app.protocol.errors import bad_request, deadline_exceeded

TIMEOUT_HEADER = "x-request-timeout-seconds"


@dataclass(frozen=True, slots=True)
class Deadline:
    """at: by a clock that never goes back; None: whenever the answer is there."""

    at: float | None

    def left_s(self) -> float | None:
        """Raises ProtocolError 504 if nothing is left."""
        if self.at is None:
            return None
        left = self.at - monotonic()
        if left <= 0:
            raise deadline_exceeded()
        return left


def deadline_of(request: Request, longest_s: float) -> Deadline:
    """The time begins now. Raises ProtocolError 400 for what is no time, or longer than allowed."""
    given = request.headers.get(TIMEOUT_HEADER)
    if given is None:
        return Deadline(None)
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= longest_s:
        message = f"{given!r} is not a number of seconds above 0 and at most {longest_s:g}"
        raise bad_request(f"Invalid '{TIMEOUT_HEADER}': {message}", TIMEOUT_HEADER)
    return Deadline(monotonic() + seconds)

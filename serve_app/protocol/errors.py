"""Why a request is refused or ends early: a code, a text, a parameter. Knows no HTTP status."""

from collections.abc import Sequence
from typing import Literal, get_args

from serve_app.protocol.messages import ErrorItem

ErrorCode = Literal[
    "invalid_request",
    "unsupported_parameter",
    "context_length_exceeded",
    "invalid_api_key",
    "insufficient_permissions",
    "model_not_allowed",
    "model_not_found",
    "request_too_large",
    "rate_limit_exceeded",
    "insufficient_quota",
    "server_overloaded",
    "internal_error",
    "loading",
    "draining",
    "engine_unavailable",
    "deadline_exceeded",
]
CODES: tuple[ErrorCode, ...] = get_args(ErrorCode)
FAULTS = frozenset({"internal_error", "engine_unavailable"})
"""Codes of errors that are the server's fault: each goes to its log. `loading` does not: why a
model or the engine is away is told once, when that begins, and requests meanwhile are counted."""
_LONGEST_MESSAGE = 1000
_LONGEST_PARAM = 200


def _printable(text: str, longest: int) -> str:
    """Quotes what a client sent: not too much of it, and always valid Unicode."""
    whole = text.encode(errors="replace").decode()
    return whole if len(whole) <= longest else whole[: longest - 1] + "…"


class ProtocolError(Exception):
    """What a client is told. `param` names the field at fault, if one is.

    retry_after_s: when the same request may go; None: as for others with this code.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.code = code
        self.message = _printable(message, _LONGEST_MESSAGE)
        self.param = None if param is None else _printable(param, _LONGEST_PARAM)

    @property
    def is_fault(self) -> bool:
        return self.code in FAULTS

    def to_item(self) -> ErrorItem:
        """A plain dict, so that it can go from the engine's process to the ingress."""
        item: ErrorItem = {
            "type": "error",
            "code": self.code,
            "message": self.message,
            "param": self.param,
        }
        if self.retry_after_s is not None:
            item["retry_after_s"] = self.retry_after_s
        return item

    @classmethod
    def of_item(cls, item: ErrorItem) -> "ProtocolError":
        """A code that this version does not know becomes an internal error."""
        known: ErrorCode = next((code for code in CODES if code == item["code"]), "internal_error")
        return cls(known, item["message"], item["param"], item.get("retry_after_s"))


def bad_request(message: str, param: str | None = None) -> ProtocolError:
    return ProtocolError("invalid_request", message, param)


def unsupported(param: str, message: str | None = None) -> ProtocolError:
    text = message or f"'{param}' is not supported here"
    return ProtocolError("unsupported_parameter", text, param)


def too_long(message: str, param: str) -> ProtocolError:
    return ProtocolError("context_length_exceeded", message, param)


def wrong_key(*, is_shown: bool) -> ProtocolError:
    message = (
        "The API key is not valid here, or has expired"
        if is_shown
        else "No API key was sent: put it in the header 'Authorization: Bearer KEY' or 'x-api-key'"
    )
    return ProtocolError("invalid_api_key", message)


def no_scope(needed: Sequence[str]) -> ProtocolError:
    message = f"This API key lacks the scope that is needed here: {' or '.join(needed)}"
    return ProtocolError("insufficient_permissions", message)


def tier_not_allowed(tier: str, highest: str) -> ProtocolError:
    message = f"This API key may not use the service tier '{tier}': its highest is '{highest}'"
    return ProtocolError("insufficient_permissions", message, "service_tier")


def not_allowed(model: str) -> ProtocolError:
    message = f"This API key may not use the model '{model}'"
    return ProtocolError("model_not_allowed", message, "model")


def too_large(message: str, param: str | None = None) -> ProtocolError:
    return ProtocolError("request_too_large", message, param)


def rate_limited(message: str, retry_after_s: float) -> ProtocolError:
    return ProtocolError("rate_limit_exceeded", message, retry_after_s=retry_after_s)


def over_budget(message: str, retry_after_s: float) -> ProtocolError:
    return ProtocolError("insufficient_quota", message, retry_after_s=retry_after_s)


def limits_unknown(message: str, retry_after_s: float) -> ProtocolError:
    return ProtocolError("loading", message, retry_after_s=retry_after_s)


def no_such_model(model: str) -> ProtocolError:
    return ProtocolError("model_not_found", f"The model '{model}' does not exist", "model")


def overloaded(message: str, retry_after_s: float | None = None) -> ProtocolError:
    return ProtocolError("server_overloaded", message, retry_after_s=retry_after_s)


def internal() -> ProtocolError:
    message = "The server had an error while processing the request"
    return ProtocolError("internal_error", message)


def loading(message: str) -> ProtocolError:
    return ProtocolError("loading", message)


def draining() -> ProtocolError:
    """The endpoint is about to end."""
    return ProtocolError("draining", "The server is shutting down and takes no new requests")


def engine_unavailable(retry_after_s: float, *, is_first: bool = False) -> ProtocolError:
    """The engine's process has died, and another is starting.   is_first: there was none yet."""
    message = (
        "No engine is ready: its log says what it waits for"
        if is_first
        else f"The engine is starting again, which should take {retry_after_s:.0f} s more"
    )
    return ProtocolError("engine_unavailable", message, retry_after_s=retry_after_s)


def deadline_exceeded() -> ProtocolError:
    """The request was not answered within the time that it gave."""
    return ProtocolError(
        "deadline_exceeded",
        "The request was not answered within the time that its header"
        " 'x-request-timeout-seconds' gives",
    )

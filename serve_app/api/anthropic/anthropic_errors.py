"""Errors as Anthropic writes them over HTTP, and which requests get them so."""

from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers

from serve_app.api.statuses import RETRY_AFTER_S, ErrorShape, HttpStatus
from serve_app.protocol.errors import ErrorCode

_VERSION_HEADER = "anthropic-version"
"""Anthropic's clients send it with every request."""
MESSAGES = "/v1/messages"
COUNT_TOKENS = f"{MESSAGES}/count_tokens"
_BAD_REQUEST = HttpStatus(400, "invalid_request_error")
_FORBIDDEN = HttpStatus(403, "permission_error")
_NOT_FOUND = HttpStatus(404, "not_found_error")
_LIMITED = HttpStatus(429, "rate_limit_error", retry_after_s=RETRY_AFTER_S)
_UNAVAILABLE = HttpStatus(503, "api_error", retry_after_s=RETRY_AFTER_S)
_STATUSES: Mapping[ErrorCode, HttpStatus] = {
    "invalid_request": _BAD_REQUEST,
    "unsupported_parameter": _BAD_REQUEST,
    "context_length_exceeded": _BAD_REQUEST,
    "invalid_api_key": HttpStatus(401, "authentication_error"),
    "insufficient_permissions": _FORBIDDEN,
    "model_not_allowed": _FORBIDDEN,
    "model_not_found": _NOT_FOUND,
    "request_too_large": HttpStatus(413, "request_too_large"),
    "rate_limit_exceeded": _LIMITED,
    "insufficient_quota": _LIMITED,
    "server_overloaded": HttpStatus(529, "overloaded_error", retry_after_s=RETRY_AFTER_S),
    "internal_error": HttpStatus(500, "api_error"),
    "loading": _UNAVAILABLE,
    "draining": _UNAVAILABLE,
    "engine_unavailable": _UNAVAILABLE,
    "deadline_exceeded": HttpStatus(504, "timeout_error"),
}


def _body(status: HttpStatus, message: str, param: str | None, request: str) -> dict[str, Any]:
    """Anthropic has no field for the parameter; messages name it."""
    del param
    made = {"type": "error", "error": {"type": status.kind, "message": message}}
    return {**made, "request_id": request} if request else made


ANTHROPIC = ErrorShape(
    _STATUSES, _NOT_FOUND, HttpStatus(405, "invalid_request_error"), "request-id", _body
)


def is_for_anthropic(headers: Headers) -> bool:
    """Whether it is one of Anthropic's clients that asks."""
    return _VERSION_HEADER in headers


def speaks_anthropic(path: str, headers: Headers) -> bool:
    """Whether a request is of Anthropic's protocol, whether there is such a route or not."""
    return path == MESSAGES or path.startswith(f"{MESSAGES}/") or is_for_anthropic(headers)

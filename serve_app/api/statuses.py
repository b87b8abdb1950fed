"""Errors as OpenAI writes them over HTTP: the one table of statuses, types and codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from starlette.responses import JSONResponse

from serve_app.protocol.errors import ErrorCode, ProtocolError

RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class HttpStatus:
    """How one kind of error is answered. `code` is what the body says, None for `null`."""

    number: int
    kind: str
    code: str | None
    retry_after_s: int | None = None


STATUSES: Mapping[ErrorCode, HttpStatus] = {
    "invalid_request": HttpStatus(400, "invalid_request_error", None),
    "unsupported_parameter": HttpStatus(400, "invalid_request_error", "unsupported_parameter"),
    "context_length_exceeded": HttpStatus(400, "invalid_request_error", "context_length_exceeded"),
    "invalid_api_key": HttpStatus(401, "authentication_error", "invalid_api_key"),
    "insufficient_permissions": HttpStatus(403, "permission_error", "insufficient_permissions"),
    "model_not_allowed": HttpStatus(403, "permission_error", "model_not_allowed"),
    "model_not_found": HttpStatus(404, "invalid_request_error", "model_not_found"),
    "request_too_large": HttpStatus(413, "invalid_request_error", "request_too_large"),
    "rate_limit_exceeded": HttpStatus(
        429, "rate_limit_error", "rate_limit_exceeded", RETRY_AFTER_S
    ),
    "insufficient_quota": HttpStatus(429, "rate_limit_error", "insufficient_quota", RETRY_AFTER_S),
    "server_overloaded": HttpStatus(429, "rate_limit_error", "server_overloaded", RETRY_AFTER_S),
    "internal_error": HttpStatus(500, "server_error", "internal_error"),
    "loading": HttpStatus(503, "server_error", "loading", RETRY_AFTER_S),
    "draining": HttpStatus(503, "server_error", "draining", RETRY_AFTER_S),
    "engine_unavailable": HttpStatus(503, "server_error", "engine_unavailable", RETRY_AFTER_S),
    "deadline_exceeded": HttpStatus(504, "server_error", "deadline_exceeded"),
}
NO_SUCH_ROUTE = HttpStatus(404, "invalid_request_error", None)
WRONG_METHOD = HttpStatus(405, "invalid_request_error", "method_not_supported")


def error_body(error: ProtocolError) -> dict[str, Any]:
    """The JSON object that tells a client of an error, alone or in the middle of a stream."""
    return _body(STATUSES[error.code], error.message, error.param)


def error_response(error: ProtocolError) -> JSONResponse:
    status = STATUSES[error.code]
    after = status.retry_after_s if error.retry_after_s is None else error.retry_after_s
    headers = {} if after is None else {"retry-after": str(ceil(after))}
    if status.number == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status.number, headers)


def routing_response(
    status: HttpStatus, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer to a request that no route takes."""
    return JSONResponse(_body(status, message, None), status.number, headers)


def _body(status: HttpStatus, message: str, param: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": status.kind, "param": param, "code": status.code}}

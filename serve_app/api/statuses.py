"""Errors over HTTP: how a protocol writes them, and the table of OpenAI's statuses and codes."""

from collections.abc import Callable, Mapping
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
    code: str | None = None
    retry_after_s: int | None = None


_STATUSES: Mapping[ErrorCode, HttpStatus] = {
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


@dataclass(frozen=True, slots=True)
class ErrorShape:
    """How a protocol writes errors. no_such_route, wrong_method: of what no route takes.

    id_header: in which an answer says the request's id, beside `x-request-id`.
    write: the body, of a status, a message, the field at fault and the request's id.
    """

    statuses: Mapping[ErrorCode, HttpStatus]
    no_such_route: HttpStatus
    wrong_method: HttpStatus
    id_header: str | None
    write: Callable[[HttpStatus, str, str | None, str], dict[str, Any]]

    def body(self, error: ProtocolError, request: str = "") -> dict[str, Any]:
        """The JSON object that tells a client of an error, alone or in the middle of a stream."""
        return self.write(self.statuses[error.code], error.message, error.param, request)

    def response(self, error: ProtocolError, request: str) -> JSONResponse:
        status = self.statuses[error.code]
        after = status.retry_after_s if error.retry_after_s is None else error.retry_after_s
        headers = {} if after is None else {"retry-after": str(ceil(after))}
        if status.number == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body(error, request), status.number, headers)

    def unrouted(
        self,
        status: HttpStatus,
        message: str,
        request: str,
        headers: Mapping[str, str] | None = None,
    ) -> JSONResponse:
        """The answer to a request that no route takes."""
        return JSONResponse(self.write(status, message, None, request), status.number, headers)


def _body(status: HttpStatus, message: str, param: str | None, request: str) -> dict[str, Any]:
    """Without the request's id, for which OpenAI has a header alone."""
    del request
    return {"error": {"message": message, "type": status.kind, "param": param, "code": status.code}}


OPENAI = ErrorShape(
    _STATUSES,
    no_such_route=HttpStatus(404, "invalid_request_error"),
    wrong_method=HttpStatus(405, "invalid_request_error", "method_not_supported"),
    id_header=None,
    write=_body,
)

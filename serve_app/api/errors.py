"""Errors as OpenAI writes them: one exception, and the table of statuses, types and codes."""

from typing import Any

from serve_app.api.wire import ErrorItem

_RETRY_AFTER_S = 2
_LONGEST_MESSAGE = 1000
_LONGEST_PARAM = 200


def _printable(text: str, longest: int) -> str:
    """What a client sent comes back in messages: not too much of it, and valid Unicode."""
    whole = text.encode(errors="replace").decode()
    return whole if len(whole) <= longest else whole[: longest - 1] + "…"


class ApiError(Exception):
    """What a client is told. `param` names the field, `retry_after` is in seconds."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = _printable(message, _LONGEST_MESSAGE)
        self.kind = kind
        self.code = code
        self.param = None if param is None else _printable(param, _LONGEST_PARAM)
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def to_item(self) -> ErrorItem:
        """Plain, so that it may cross from the engine's process to the ingress'."""
        return {
            "type": "error",
            "status": self.status,
            "message": self.message,
            "kind": self.kind,
            "code": self.code,
            "param": self.param,
            "retry_after": self.retry_after,
        }

    @classmethod
    def of_item(cls, item: ErrorItem) -> "ApiError":
        return cls(
            item["status"],
            item["message"],
            kind=item["kind"],
            code=item["code"],
            param=item["param"],
            retry_after=item["retry_after"],
        )


def bad_request(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, message, kind="invalid_request_error", param=param)


def unsupported(param: str, message: str | None = None) -> ApiError:
    return ApiError(
        400,
        message or f"'{param}' is not supported here",
        kind="invalid_request_error",
        code="unsupported_parameter",
        param=param,
    )


def too_long(message: str, param: str) -> ApiError:
    return ApiError(
        400, message, kind="invalid_request_error", code="context_length_exceeded", param=param
    )


def no_such_model(model: str) -> ApiError:
    return ApiError(
        404,
        f"The model '{model}' does not exist",
        kind="invalid_request_error",
        code="model_not_found",
        param="model",
    )


def no_such_route(method: str, path: str) -> ApiError:
    return ApiError(404, f"Invalid URL ({method} {path})", kind="invalid_request_error")


def wrong_method(method: str, path: str) -> ApiError:
    return ApiError(
        405,
        f"{method} is not allowed on {path}",
        kind="invalid_request_error",
        code="method_not_supported",
    )


def overloaded(message: str) -> ApiError:
    return ApiError(
        429,
        message,
        kind="rate_limit_error",
        code="server_overloaded",
        retry_after=_RETRY_AFTER_S,
    )


def internal() -> ApiError:
    return ApiError(
        500,
        "The server had an error while processing the request",
        kind="server_error",
        code="internal_error",
    )


def loading(message: str) -> ApiError:
    return ApiError(503, message, kind="server_error", code="loading", retry_after=_RETRY_AFTER_S)


def draining(message: str) -> ApiError:
    return ApiError(503, message, kind="server_error", code="draining", retry_after=_RETRY_AFTER_S)

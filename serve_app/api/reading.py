"""Reads the body of a request into checked fields. Makes no job of them."""

from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request

from serve_app.api.requests.long_bodies import Bodies
from serve_app.api.requests.parse import checked
from serve_app.api.streams import ClientGone
from serve_app.protocol.errors import too_large

_Schema = TypeVar("_Schema", bound=BaseModel)


class Reader:
    """For all requests of an application. most: bytes of a body."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bodies = Bodies()

    async def fields(self, request: Request, schema: type[_Schema]) -> _Schema:
        """Raises ProtocolError 413 for a body that is too long, 400 as `parse`; ClientGone if it
        ends early.
        """
        return checked(await self._bodies.json_object(await self._body(request)), schema)

    async def _body(self, request: Request) -> bytearray:
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > self._most:
                    raise too_large(f"The body is longer than the limit of {self._most} bytes")
        except ClientDisconnect as error:
            raise ClientGone from error
        return body

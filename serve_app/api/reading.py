"""Reads the body of a request into checked fields. Makes no job of them."""

import asyncio
from functools import partial
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request

from serve_app.api.access import asked_by
from serve_app.api.requests.long_bodies import Bodies, is_short
from serve_app.api.requests.most_tokens import MostTokens
from serve_app.api.requests.parse import checked
from serve_app.api.streams import ClientGone
from serve_app.config import RequestLimits
from serve_app.protocol.errors import too_large
from serve_app.protocol.messages import EngineClient

_Schema = TypeVar("_Schema", bound=BaseModel)


class Reader:
    """For all requests of an application."""

    def __init__(self, limits: RequestLimits, client: EngineClient) -> None:
        self._limits = limits
        self._client = client
        self._bodies = Bodies()

    async def fields(
        self, request: Request, schema: type[_Schema], *, is_answered: bool = True
    ) -> _Schema:
        """is_answered: a model is to answer what is in it, so that it must fit a context.

        Raises ProtocolError 413 for a body that is too long, 400 as `parse`; ClientGone if it
        ends early. For a long body, also what the client raises, and 400 if no model can take it.
        """
        most = partial(self._most_tokens, request, is_answered=is_answered)
        body = await self._body(request)
        found = await self._bodies.json_object(body, most)
        if is_short(body):
            return checked(found, schema)
        return await asyncio.to_thread(checked, found, schema)  # much of it is in Python

    async def _most_tokens(self, request: Request, *, is_answered: bool) -> MostTokens | None:
        """What some model that the caller may be answered by takes; None while there is none."""
        found = await self._client.models(asked_by(request).caller.name)
        if found["release"] is None:
            return None
        cards, limits = found["models"], self._limits
        prompt = max(card["max_prompt_len"] for card in cards)
        most = min(prompt, limits.prompt_tokens or prompt)
        if not is_answered:
            most = max(*(card["max_model_len"] for card in cards), limits.text_tokens)
        return {"tokens": most, "weights": found["weights"]}

    async def _body(self, request: Request) -> bytearray:
        body, most = bytearray(), self._limits.body_bytes
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large(f"The body is longer than the limit of {most} bytes")
        except ClientDisconnect as error:
            raise ClientGone from error
        return body

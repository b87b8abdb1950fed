"""Counts what a request takes of its tenant's limits. Knows no limit and sends nothing."""

from collections.abc import AsyncIterator, Awaitable

from serve_app.api.access import Asked
from serve_app.api.answers.answer import Usage
from serve_app.protocol.messages import Accepted, Item, Items
from serve_app.tenants.limits.allowance import Use


class MeteredItems:
    """A job's items, which are in use until they are closed."""

    def __init__(self, items: Items, asked: Asked, use: Use) -> None:
        self._items = items
        self._asked = asked
        self._use = use
        self._usage = Usage(())

    async def accepted(self, told: Accepted) -> Usage:
        """Reserves the tokens of the request. Those of the answer are to be added to the result.

        Raises ProtocolError 429 if prompt and answer are more than what is left.
        """
        num_prompt = sum(told["prompt_tokens"])
        await self._asked.reserve(self._use, num_prompt, told["answer_tokens"])
        self._usage = Usage(told["prompt_tokens"])
        return self._usage

    def __aiter__(self) -> AsyncIterator[list[Item]]:
        return self._items.__aiter__()

    def __anext__(self) -> Awaitable[list[Item]]:
        return self._items.__anext__()

    async def aclose(self) -> None:
        """Gives the job up, if it runs still, and gives back what it did not use."""
        try:
            await self._items.aclose()
        finally:
            self._use.end(self._usage.num_answered)

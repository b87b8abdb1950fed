"""Counts what a request takes of its tenant's limits. Knows no limit and sends nothing."""

from collections.abc import AsyncIterator, Awaitable
from time import monotonic

from serve_app.api.access import over_limit
from serve_app.api.answers import Usage
from serve_app.protocol.messages import Accepted, Item, Items
from serve_app.tenants.allowance import OverLimit, Use


class MeteredItems:
    """A job's items, which are in use until they are closed."""

    def __init__(self, items: Items, use: Use) -> None:
        self._items = items
        self._use = use
        self._usage = Usage(())

    def accepted(self, told: Accepted) -> Usage:
        """Reserves the tokens of the request. Those of the answer are to be added to the result.

        Raises ProtocolError 429 if prompt and answer are more than what is left.
        """
        num_prompt = sum(told["prompt_tokens"])
        try:
            self._use.reserve(num_prompt, told["answer_tokens"], monotonic())
        except OverLimit as error:
            raise over_limit(error) from error
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
            self._use.end(self._usage.num_answered, monotonic())

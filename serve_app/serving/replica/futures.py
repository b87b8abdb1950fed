"""Waits on the event loop for a result from another thread. Never cancels what it waits for."""

import asyncio
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


async def outcome(promised: "Future[_T]") -> _T:
    """The result of `promised`. Cancelling this does not cancel `promised`, because its maker will
    still set it, and setting a cancelled future raises.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not done.done():
            done.set_result(None)

    def tell(_: "Future[_T]") -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle)

    promised.add_done_callback(tell)
    await done
    return promised.result()

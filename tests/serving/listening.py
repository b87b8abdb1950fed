"""A replica on a fake engine behind the real listener, on a thread of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.api.routes import Api, build_api
from serve_app.config import RequestLimits, ServeConfig
from serve_app.serving.listener import Listener
from serve_app.serving.run import free_port
from tests.serving.asking import chatty
from tests.serving.running import replica_of, serves

CONFIG = ServeConfig(family="fam", poll_s=0.02, limits=RequestLimits(body_bytes=2**20))


@contextmanager
def listening() -> Iterator[int]:
    """The port on which model `a` can be asked by anybody."""
    port, loop, started = free_port(), asyncio.new_event_loop(), threading.Event()
    ends = asyncio.Event()

    async def serve() -> None:
        async with replica_of(chatty(), CONFIG) as replica:
            await serves(replica, "r1")
            listener = Listener(build_api(Api(replica, CONFIG.limits)), "127.0.0.1", port)
            await listener.start()
            started.set()
            await ends.wait()
            await listener.aclose()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(30)
        yield port
    finally:
        loop.call_soon_threadsafe(ends.set)
        thread.join(30)
        loop.close()

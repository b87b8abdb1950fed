"""Calls a method of all ingresses, from the process that has started them. Carries no job."""

import asyncio
import logging
import threading
from functools import cache

_log = logging.getLogger(__name__)


def tell_ingresses(application: str, method: str, within_s: float) -> None:
    """Returns when all have done it. If one cannot be asked, the log of this process says so."""
    try:
        asyncio.run_coroutine_threadsafe(_tell(application, method, within_s), _loop()).result()
    except Exception as error:  # noqa: BLE001  whatever it is, everything must end
        why = str(error) or type(error).__name__
        _log.warning("%s: an ingress did not answer: %s", method, why)


async def _tell(application: str, method: str, within_s: float) -> None:
    from ray import serve  # once its environment is set

    async with asyncio.timeout(within_s):
        asked = serve.get_app_handle(application).broadcast(method)
        for result in await asked.results_async(return_exceptions=True):
            if isinstance(result, Exception):
                raise result


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Runs until this process ends. Serve's router stays on the loop of the first call, and must
    hear there of ingresses that come and go: from another loop, nobody would be reached.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="told-ingresses", daemon=True).start()
    return loop

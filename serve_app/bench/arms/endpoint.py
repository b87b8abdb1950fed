"""Sends jobs to an OpenAI-compatible endpoint and streams the answers. Serves nothing itself."""

import asyncio
import json
import threading
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from serve_app.bench.requests.open_loop import Notes
from serve_app.bench.requests.workload import Asked, TimedJob
from serve_app.errors import ConfigError

LIST_TIMEOUT_S = 10.0
SHOWN = 200
"""How many characters of an error's body are kept."""


@dataclass(frozen=True, slots=True)
class HttpSpec:
    """A client process for an endpoint: see `process.Opens`.   url: without `/v1`.

    key: to ask with, where the endpoint has keys.
    """

    url: str
    models: tuple[str, ...]
    name: str = "http"
    variables: Mapping[str, str] = field(default_factory=dict)
    is_client: bool = True
    key: str | None = field(default=None, repr=False)

    def open(self) -> "Http":
        return Http(self.url, self.key)


class Http:
    """Asks from its own thread, each job over its own connection."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url = f"{url}/v1/completions"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(_session(key), self._loop).result()

    @property
    def device_bytes(self) -> int:
        """Nobody knows what the other end holds."""
        return 0

    @property
    def facts(self) -> dict[str, float]:
        return {}

    def submit(self, index: int, job: TimedJob, notes: Notes) -> None:
        asyncio.run_coroutine_threadsafe(self._ask(index, job, notes), self._loop)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        this = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not this]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._session.close()

    async def _ask(self, index: int, job: TimedJob, notes: Notes) -> None:
        error: str | None = "the connection ended before the answer did"
        try:
            async with self._session.post(self._url, json=body(job)) as response:
                if response.status == 200:
                    error = await _read(response, index, notes)
                else:
                    error = f"{response.status}: {(await response.text())[:SHOWN]}"
        except (aiohttp.ClientError, OSError) as caught:
            error = f"{type(caught).__name__}: {caught}"
        finally:
            notes.ended(index, error)


def body(job: TimedJob) -> dict[str, Any]:
    """A job as a request to an endpoint: greedy, and ended only by its length."""
    return {
        "model": job.model,
        "prompt": list(job.prompt),
        "max_tokens": job.max_tokens,
        "temperature": 0,
        "seed": job.seed,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _session(key: str | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        headers={} if key is None else {"authorization": f"Bearer {key}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=LIST_TIMEOUT_S),
    )


async def _read(response: aiohttp.ClientResponse, index: int, notes: Notes) -> str | None:
    """Note the stream until it ends. -> None, or what is wrong with it"""
    num_tokens = None
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            if num_tokens is not None:
                notes.counted(index, num_tokens)
            return None
        if data.startswith(b'{"error"'):
            return data.decode(errors="replace")[:SHOWN]
        if b'"completion_tokens"' in data:
            num_tokens = int(json.loads(data)["usage"]["completion_tokens"])
        else:
            notes.progressed(index)
    return "the stream ended before the answer did"


def asked_of(url: str, wanted: tuple[str, ...], vocabulary: int) -> list[Asked]:
    """The models of an endpoint, or the wanted ones in the wanted order.

    Raises: ConfigError if it does not answer, has no such model, or does not state its context
    length.
    """
    address = f"{url}/v1/models"
    try:
        with urllib.request.urlopen(address, timeout=LIST_TIMEOUT_S) as response:
            listed = {one["id"]: one for one in json.load(response)["data"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{address}: {error}") from error
    found = []
    for name in wanted or tuple(sorted(listed)):
        if name not in listed:
            raise ConfigError(f"{address} lists no model {name!r}: {', '.join(sorted(listed))}")
        context = listed[name].get("max_model_len")
        if not isinstance(context, int):
            raise ConfigError(f"{address} does not say the max_model_len of {name!r}")
        found.append(Asked(name, context, vocabulary))
    if not found:
        raise ConfigError(f"{address} lists no models")
    return found

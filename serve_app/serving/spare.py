"""A spare worker of Ray, in which the next engine starts without importing anything.

Most of the time until a killed engine is back would be importing. Ray gives a new replica an idle
worker if it has one, so there is always one, which has imported what an engine needs
(`spare_imports`; ADR 33). It takes some 350 MB of memory, and stays idle until then.
"""

import asyncio
import logging
import os
from importlib import import_module
from typing import Any

import grpc
import ray
import torch
from ray._private.grpc_utils import init_grpc_channel

from serve_app.engine.device.free_memory import free_bytes

_log = logging.getLogger(__name__)
WANTED = "EXPERTPOOL_SPARE"
"""In the environment of Ray's node, where a spare worker is wanted."""
_LATER_S = 5.0
"""The engine's own start comes first."""
_ROOM = 2**30
"""Bytes that must be free, or there is no spare worker."""
_KEPT_S = 10**9
_ANSWER_S = 10.0


async def keep_spare() -> None:
    """Has this node keep an idle worker from now on, if that is wanted."""
    if WANTED not in os.environ:
        return
    await asyncio.sleep(_LATER_S)
    free = free_bytes(torch.device("cpu"))
    if free is not None and free < _ROOM:
        _log.warning("no spare worker: %d bytes of memory are free, and it wants %d", free, _ROOM)
        return
    try:
        await asyncio.to_thread(_start_worker)
    except (grpc.RpcError, StopIteration) as error:
        _log.warning("no spare worker: %s", error)


def _start_worker() -> None:
    """Ray has no function for it, only the message by which its own parts ask."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    messages: Any = import_module("ray.core.generated.node_manager_pb2")
    services: Any = import_module("ray.core.generated.node_manager_pb2_grpc")
    wanted = messages.PrestartWorkersRequest(num_workers=1, keep_alive_duration_secs=_KEPT_S)
    with init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}") as channel:
        services.NodeManagerServiceStub(channel).PrestartWorkers(wanted, timeout=_ANSWER_S)

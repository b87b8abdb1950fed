"""Ray imports this in each worker that it starts; one that is to hold an engine imports early.

When Ray starts, it starts two workers. One gets an actor at once, and becomes Serve's controller.
The other gets the engine, which Serve places before the ingresses, and imports meanwhile what that
needs. Later workers do so when they have stayed idle, as a spare one does (`spare`): one that Ray
has started for somebody is idle for a moment only.
"""

import importlib
import os
import threading
import time

import ray
from ray.experimental import internal_kv

_FIRST = b"expertpool: the first worker has its actor"
"""A key in Ray's own store, which all of its processes see."""
_LOOK_S = 0.05
_IDLE_S = 5.0
_ENGINE = ("serve_app.serving.assembly", "serve_app.serving.replica.replica")
_SERVE = ("ray.serve._private.replica", "serve_app.serving.engine_deployment")


def _import_if_idle(is_late: bool) -> None:
    if is_late:
        time.sleep(_IDLE_S)
    while not _has_actor() and not _is_told():
        time.sleep(_LOOK_S)
    if _has_actor():
        internal_kv._internal_kv_put(_FIRST, b"")
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Ray does before it makes an actor
    for name in (*_ENGINE, *_SERVE):
        if name in _SERVE and _has_actor():
            return  # which imports it itself
        importlib.import_module(name)


def _has_actor() -> bool:
    return ray.get_runtime_context().get_actor_id() is not None


def _is_told() -> bool:
    found: bool = internal_kv._internal_kv_exists(_FIRST)
    return found


threading.Thread(
    target=_import_if_idle, args=(_is_told(),), name="expertpool-spare", daemon=True
).start()

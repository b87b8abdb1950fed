"""Ray imports this in each worker that it starts; one that stays idle then imports an engine.

See `spare`. A worker that Ray has started for somebody is idle for a moment only.
"""

import importlib
import os
import threading
import time

import ray

_IDLE_S = 5.0
_MODULES = (
    "ray.serve._private.replica",
    "serve_app.serving.engine_deployment",
    "serve_app.serving.assembly",
    "serve_app.serving.replica.replica",
)


def _import_if_idle() -> None:
    time.sleep(_IDLE_S)
    if ray.get_runtime_context().get_actor_id() is not None:
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Ray does before it makes an actor
    for name in _MODULES:
        importlib.import_module(name)


threading.Thread(target=_import_if_idle, name="expertpool-spare", daemon=True).start()

"""How Ray is started here: of few processes, and waited for longer than Ray does. Starts nothing.

On a machine that is busy, Ray's processes may take more than the 30 s after which it gives up. It
has no setting for that.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

from consolidation.errors import RunFailed
from consolidation.run.ray_parts import few_parts
from consolidation.run.ray_ports import known_ports

LONGEST_S = 180.0
_PAUSE_S = 0.1


@contextmanager
def patient_start(
    meanwhile: Callable[[], None] | None = None, *, longest_s: float = LONGEST_S
) -> Iterator[None]:
    """Inside the block, `ray.init` waits so long for its node. Raises `RunFailed` after that.

    meanwhile: called once, when Ray's processes have been started.
    """
    services: Any = import_module("ray._private.services")
    ask = services.get_node
    begun = time.monotonic()

    def get_node(*which: Any) -> Any:
        nonlocal meanwhile
        if meanwhile is not None:
            meanwhile()
            meanwhile = None
        while True:
            try:
                found = ask(*which)
                if listens():
                    return found
            except RuntimeError:  # the node is not there yet
                pass
            if time.monotonic() - begun > longest_s:
                raise RunFailed(
                    f"Ray did not start within {longest_s:g} s: the machine may be too busy, "
                    "or short of memory; try again when it has less to do"
                )
            time.sleep(min(_PAUSE_S, longest_s))

    with (
        few_parts(),
        known_ports(longest_s) as listens,
        patch.object(services, "get_node", get_node),
    ):
        yield

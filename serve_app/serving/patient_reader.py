"""Reads the parts of a release's experts as long as its storage may come back. Verifies nothing.

An engine that is told that one part cannot be read gives up the release, and with it all parts that
it has read: so a storage that is away for seconds would cost minutes.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

import torch

from consolidation.release import Registry, ReleaseReader, StorageFailed

_log = logging.getLogger(__name__)
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
"""Between tries for one part, which take time too: after a minute or more, it is given up."""
_Tensors = dict[str, torch.Tensor]


class PatientReader(ReleaseReader):
    """Several threads may read: the log has one line for all that wait at once.

    Files that are missing or damaged are not waited for, nor are backbones: requests do.
    """

    def __init__(
        self, registry: Registry, release: str, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__(registry, release)
        self._sleep = sleep
        self._lock = threading.Lock()
        self._num_waiting = 0

    def read_slot(self, layer: int, slot: int) -> _Tensors:
        return self._patiently(partial(super().read_slot, layer, slot))

    def read_residual(self, layer: int, residual: int) -> _Tensors:
        return self._patiently(partial(super().read_residual, layer, residual))

    def _patiently(self, read: Callable[[], _Tensors]) -> _Tensors:
        """Raises what the last try raises."""
        for pause_s in PAUSES_S:
            try:
                return read()
            except StorageFailed as error:
                self._wait(pause_s, error)
        return read()

    def _wait(self, pause_s: float, error: StorageFailed) -> None:
        with self._lock:
            is_first = not self._num_waiting
            self._num_waiting += 1
        if is_first:
            told = "release %s: %s; what was read is kept, and it is tried again in %g s"
            _log.warning(told, self.id, error, pause_s)
        try:
            self._sleep(pause_s)
        finally:
            with self._lock:
                self._num_waiting -= 1

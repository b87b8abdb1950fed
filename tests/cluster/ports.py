"""Ports that stay free until they are used. Listens on none."""

import socket
from collections.abc import Iterator
from itertools import count

_FIRST = 21_000
"""Above those of Ray's workers, and below those that the system gives to whoever asks for any: one
of those would be given to another process of Ray before a proxy starts that was told of it.
"""
_LAST = 32_000


def kept_ports() -> Iterator[int]:
    """Each once, free on all addresses at that moment. Raises: OSError if none is left."""
    for port in count(_FIRST):
        if port > _LAST:
            raise OSError(f"no port from {_FIRST} to {_LAST} is free")
        if is_free(port):
            yield port


def is_free(port: int) -> bool:
    """On all addresses, at this moment."""
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True

"""Messages as bytes: a length, and the plain values as `marshal` writes them. No message is known.

Both ends are of one interpreter, which is all that `marshal` needs. It carries no classes, so what
comes out of a process that works on texts of strangers is values and nothing else.
"""

import marshal
import struct
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<Q")


def pack(value: Any) -> bytes:
    """Raises ValueError for what is not plain, or nested too deeply."""
    return marshal.dumps(value)


def unpack(packed: bytes) -> Any:
    """The inverse."""
    return marshal.loads(packed)


def frame(message: Any) -> bytes:
    """`pack`, with the length in front."""
    packed = pack(message)
    return _LENGTH.pack(len(packed)) + packed


def read_packed(file: BinaryIO) -> bytes:
    """The next message, to be unpacked. Nothing at the end."""
    length = file.read(_LENGTH.size)
    return file.read(_LENGTH.unpack(length)[0]) if len(length) == _LENGTH.size else b""


class Frames:
    """Cuts a stream of bytes into messages again."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, more: bytes) -> list[Any]:
        """The messages that `more` completes, in order."""
        self._bytes += more
        found = []
        begin = 0
        while (start := begin + _LENGTH.size) <= len(self._bytes):
            end = start + _LENGTH.unpack_from(self._bytes, begin)[0]
            if end > len(self._bytes):
                break
            with memoryview(self._bytes) as view:
                found.append(marshal.loads(view[start:end]))
            begin = end
        del self._bytes[:begin]
        return found

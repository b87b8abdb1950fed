"""Tensors of a safetensors file, read one at a time by offset. Keeps no file open or mapped.

Reading by offset keeps a process's memory at what it asked for: pages of a mapped file count as
its own as long as the mapping lives.
Format: https://huggingface.co/docs/safetensors (an 8-byte length, a JSON header, the data).
"""

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from consolidation.checkpoints.weight_files import INDEX, SINGLE
from consolidation.errors import Refused
from consolidation.release.manifest import Dtype
from representation.json_text import parse_json

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
}
"""Dtypes that can be read. Which may be used is decided where tensors are accounted for."""
SERVED_DTYPES: dict[str, Dtype] = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""Dtypes that plain weights may have, and their names in configs and manifests."""

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
AHEAD_BYTES = 128 << 10
LFS_MARK, LFS_BYTES = b"git-lfs.github.com/spec", 1024
"""What stands at the beginning of a file that Git has left elsewhere, and more than it is long."""


class SourceTensor(Protocol):
    """A tensor of a checkpoint, for those that read it. `dtype` is in the terms of the file format.

    `num_bytes` are those of the tensor that is read.
    """

    @property
    def key(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def num_bytes(self) -> int: ...

    def read(self, index: int | None = None) -> torch.Tensor:
        """The tensor in memory of its own; with `index`, only `tensor[index : index + 1]`."""

    def read_ahead(self) -> None:
        """Have the system read the tensor into its page cache meanwhile. Holds no memory."""

    def meta(self, index: int | None = None) -> torch.Tensor:
        """A tensor without data, of the shape and dtype that `read` would give."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor of a checkpoint lies. `dtype` is in the terms of the file format."""

    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    def read(self, index: int | None = None) -> torch.Tensor:
        """The tensor in memory of its own; with `index`, only `tensor[index : index + 1]`.

        Raises `Refused` when the file has become shorter meanwhile or cannot be read.
        """
        shape, offset, num_bytes = self.shape, self.offset, self.num_bytes
        if index is not None:
            num_bytes //= shape[0]
            offset += index * num_bytes
            shape = (1, *shape[1:])
        tensor = torch.empty(shape, dtype=DTYPES[self.dtype])
        if num_bytes == 0:
            return tensor
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(offset)
                _fill(file, memoryview(cast(Any, tensor.view(-1).view(torch.uint8).numpy())))
        except OSError as error:
            raise Refused(f"cannot read {self.key} from {self.file}: {error}") from error
        return tensor

    def read_ahead(self) -> None:
        """Have the system read the tensor into its page cache meanwhile. Holds no memory."""
        if not hasattr(os, "posix_fadvise"):
            return
        with suppress(OSError), self.file.open("rb", buffering=0) as file:
            # Linux reads no more than this ahead for one request.
            for start in range(0, self.num_bytes, AHEAD_BYTES):
                size = min(AHEAD_BYTES, self.num_bytes - start)
                os.posix_fadvise(file.fileno(), self.offset + start, size, os.POSIX_FADV_WILLNEED)

    def meta(self, index: int | None = None) -> torch.Tensor:
        """A tensor without data, of the shape and dtype that `read` would give."""
        shape = self.shape if index is None else (1, *self.shape[1:])
        return torch.empty(shape, dtype=DTYPES[self.dtype], device="meta")


@dataclass(frozen=True, slots=True)
class RoundedTensor:
    """A stored tensor, read in another dtype. Its bytes are those of what is read."""

    stored: StoredTensor
    dtype: str

    @property
    def key(self) -> str:
        """As the file calls it."""
        return self.stored.key

    @property
    def shape(self) -> tuple[int, ...]:
        """As the file has it."""
        return self.stored.shape

    @property
    def num_bytes(self) -> int:
        """Of the tensor that is read."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def read(self, index: int | None = None) -> torch.Tensor:
        """See `SourceTensor.read`."""
        return self.stored.read(index).to(DTYPES[self.dtype])

    def read_ahead(self) -> None:
        """See `SourceTensor.read_ahead`."""
        self.stored.read_ahead()

    def meta(self, index: int | None = None) -> torch.Tensor:
        """See `SourceTensor.meta`."""
        return self.stored.meta(index).to(DTYPES[self.dtype])


def _fill(file: object, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise OSError(f"the file ends {len(view) - done} bytes early")
        done += count


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Tensors of a safetensors file, by key. Raises `Refused` for a truncated or damaged file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if size < LFS_BYTES and LFS_MARK in path.read_bytes():
                raise Refused(f"{path} is a Git LFS pointer: fetch the file with git lfs pull")
            if length > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
                raise Refused(f"{path} is truncated, or not a safetensors file")
            header = parse_json(file.read(length))
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise Refused(f"{path} is not a safetensors file: {error}") from error
    try:
        found = {
            key: _stored(path, key, entry, LENGTH_BYTES + length)
            for key, entry in header.items()
            if key != "__metadata__"
        }
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError) as error:
        raise Refused(f"{path} has a damaged header: {error}") from error
    end = max((t.offset + t.num_bytes for t in found.values()), default=LENGTH_BYTES + length)
    if end != size:
        raise Refused(f"{path} has {size} bytes; its header speaks of {end}: truncated or altered")
    return found


def _stored(path: Path, key: str, entry: dict[str, object], base: int) -> StoredTensor:
    dtype, shape = str(entry["dtype"]), tuple(int(n) for n in entry["shape"])  # type: ignore[attr-defined]
    start, end = (int(n) for n in entry["data_offsets"])  # type: ignore[attr-defined]
    if start < 0 or end < start or any(n < 0 for n in shape):
        raise ValueError(f"tensor {key!r} lies at {start} to {end}")
    if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != end - start:
        raise ValueError(f"tensor {key!r} of shape {shape} has {end - start} bytes")
    return StoredTensor(path, key, dtype, shape, base + start, end - start)


def read_headers(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint directory, single-file or sharded.

    Raises `Refused`, naming the file or tensor, when a shard is missing or damaged or does not
    agree with the index.
    """
    single, index = directory / SINGLE, directory / INDEX
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        raise Refused(f"{directory} has neither {SINGLE} nor {INDEX}")
    try:
        weight_map = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted({str(file) for file in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{index} cannot be read: {type(error).__name__}: {error}") from error
    found: dict[str, StoredTensor] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise Refused(f"{index} names a shard outside its directory: {shard}")
        for key, stored in read_header(directory / shard).items():
            if weight_map.get(key) != shard:
                raise Refused(f"{directory / shard} holds {key}, which {index.name} does not say")
            found[key] = stored
    for key, shard in sorted(weight_map.items()):
        if key not in found:
            raise Refused(f"{directory / shard} lacks {key}, which {index.name} says it holds")
    return found

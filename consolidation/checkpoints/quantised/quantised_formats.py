"""The formats of quantised checkpoints that are read, by the methods that configs name.

A checkpoint is quantised if its config names a method and its tensors are as that method stores
them. Weights are decoded one matrix at a time, in float32, and rounded once to the config's dtype
(bfloat16 if it names none).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consolidation.checkpoints.quantised import bits_and_bytes, block_fp8, compressed, mxfp4
from consolidation.checkpoints.quantised.converting import how_to_convert
from consolidation.checkpoints.quantised.quantised_tensor import Encoded, QuantisedTensor
from consolidation.checkpoints.tensor_file import SERVED_DTYPES, SourceTensor, StoredTensor
from consolidation.errors import Refused

Take = Callable[[Mapping[str, Any], dict[str, StoredTensor]], dict[str, Encoded]]
FORMATS: dict[str, Take] = {
    "bitsandbytes": bits_and_bytes.take,
    "compressed-tensors": compressed.take,
    "fp8": block_fp8.take,
    "mxfp4": mxfp4.take,
}
"""By `quant_method`."""


@dataclass(frozen=True, slots=True)
class PlainTensors:
    """A checkpoint's tensors by name, none in few bits.

    `quantised` says how weights are stored, for people; None if all are plain. `left_over` is the
    method that the config names where they are.
    """

    tensors: dict[str, SourceTensor]
    quantised: str | None = None
    left_over: str | None = None


def plain_tensors(
    directory: Path, fields: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> PlainTensors:
    """What the readers of a checkpoint see. fields: of its `config.json`.

    Raises `Refused` for a format that is not read, with what converts it, and for parts of a weight
    that do not fit together.
    """
    settings = fields.get("quantization_config")
    if not settings:
        return PlainTensors(dict(stored))
    named = isinstance(settings, dict)
    method = str(settings.get("quant_method", "unnamed") if named else settings)
    rest = dict(stored)
    take = FORMATS.get(method)
    encoded = take(settings, rest) if take is not None and named else {}
    if not encoded:
        if all(tensor.dtype in SERVED_DTYPES for tensor in stored.values()):
            return PlainTensors(dict(stored), left_over=method)
        raise Refused(
            f"{directory}: it is quantised ({method}) in a way that is not read: "
            f"{how_to_convert(method, directory)}"
        )
    dtype = _dtype(directory, fields)
    tensors: dict[str, SourceTensor] = dict(rest)
    for name, how in encoded.items():
        if name in rest:
            raise Refused(f"{directory}: {name} is stored twice, once quantised ({method})")
        tensors[name] = QuantisedTensor(name, dtype, how)
    labels = sorted({how.label for how in encoded.values()})
    return PlainTensors(tensors, quantised=", ".join(labels))


def _dtype(directory: Path, fields: Mapping[str, Any]) -> str:
    named = fields.get("dtype") or fields.get("torch_dtype") or "bfloat16"
    for dtype, name in SERVED_DTYPES.items():
        if name == named:
            return dtype
    raise Refused(
        f"{directory}: its config has the dtype {named!r}; quantised weights can be read in "
        f"{', '.join(SERVED_DTYPES.values())}"
    )

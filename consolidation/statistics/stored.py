"""Statistics as they are kept: a file an expert, with the metrics of its matrices, and a factor.

They lie under a digest of all that they depend on: tensors and config of the model, the text, the
code. So every later run on the same model and text finds them, whatever its budget. Gathers
nothing: `statistics/gathering.py` writes here, comparing and building read.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import lru_cache
from threading import Lock
from typing import Any

import torch

from consolidation.arithmetic.metric import Metric, Samples
from consolidation.arithmetic.on_device import CPU, to_device
from consolidation.errors import Refused, RunFailed
from consolidation.release.storage import Storage, open_storage
from consolidation.release.tensors import decode_tensors, encode_tensors
from consolidation.run.kept_results import remove_unused
from consolidation.statistics.windows import ModelWindows
from representation.canonical import canonical_json
from representation.json_text import parse_json

CODE_VERSION = 5
"""Raise it whenever the same model and text would give other statistics, or files of another form.

`tests/consolidation/statistics/test_stored.py` fails when it should have been raised.
"""
DIRECTORY = "work/statistics"
END = "gathered.json"
"""When a run used a model's statistics last, and what gathering found once they are complete."""
KEPT_BYTES = 64 << 20
"""Of statistics that stay in memory when they were read; those read last, in any case."""
DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Where one model's statistics are: a directory of a storage."""

    url: str
    directory: str

    def path(self, layer: int, index: int) -> str:
        """The file of one expert, relative to the storage: a digest, then tensors."""
        return f"{self.directory}/{layer}/{index}.bin"

    @property
    def factor_path(self) -> str:
        """The file of what the metrics are multiplied by, relative to the storage."""
        return f"{self.directory}/factor.json"

    @property
    def storage(self) -> Storage:
        return open_storage(self.url)

    def result(self) -> Any:
        """What gathering them found; None if they are not complete."""
        data = self.storage.read(f"{self.directory}/{END}")
        try:
            return parse_json(data or b"")["result"]
        except (ValueError, KeyError, TypeError):
            return None

    def finish(self, result: Any, now: datetime) -> None:
        """Say that a run used them now. result: None while they are not complete."""
        content = {"used": now.isoformat(), "result": result}
        self.storage.write(f"{self.directory}/{END}", canonical_json(content))


@dataclass(frozen=True, slots=True)
class StatisticsStore:
    """Statistics by the names of models. A value: other processes can be given it."""

    models: Mapping[str, ModelStatistics]

    def metric(
        self, model: str, layer: int, index: int, name: str, device: torch.device = CPU
    ) -> Metric:
        """The metric of one matrix of one expert. Raises `RunFailed` if gone or damaged."""
        factor = _factor(model, self.models[model])
        found = _recent.read(model, self.models[model], layer, index)
        return _metric(found, name, device).scaled(factor)

    def unscaled(
        self,
        model: str,
        layer: int,
        index: int,
        names: Iterable[str],
        device: torch.device = CPU,
    ) -> dict[str, Metric]:
        """Metrics of one expert by matrix, as they were gathered. Raises `RunFailed`."""
        found = _read(model, self.models[model], layer, index)
        return {name: _metric(found, name, device) for name in names}

    def keep(self, model: str, layer: int, index: int, metrics: Mapping[str, Metric]) -> None:
        """Write the metrics of one expert as they were gathered, by matrix.

        Raises `Refused` for what is no metric.
        """
        tensors: dict[str, torch.Tensor] = {}
        for name, metric in metrics.items():
            tensors |= _tensors(name, metric)
        for key, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise Refused(
                    f"model {model!r}, layer {layer}, expert {index}: {key} on the calibration "
                    "text is not finite: activations or gradients are too large to compute with"
                )
        there, data = self.models[model], encode_tensors(tensors)
        digest = hashlib.sha256(data).digest()
        there.storage.write(there.path(layer, index), digest + data)

    def keep_factor(self, model: str, factor: float) -> None:
        """Write what all metrics of a model are to be multiplied by. It comes last."""
        there = self.models[model]
        there.storage.write(there.factor_path, json.dumps(factor).encode())

    def there(self, model: str, experts: Sequence[int]) -> bool:
        """Whether there is a file for each of a model's experts. experts: their number, by layer"""
        found = self.models[model]
        if found.storage.size(found.factor_path) is None:
            return False
        return all(
            found.storage.size(found.path(layer, index)) is not None
            for layer, num_experts in enumerate(experts)
            for index in range(num_experts)
        )


@dataclass(frozen=True, slots=True)
class StatisticsJournal:
    """What gathering found, as a journal of the tasks of one stage, by the models' names.

    The results lie beside the statistics, so other runs find them. Two runs that gather the same
    at once write the same.
    """

    store: StatisticsStore
    stage: str
    now: datetime

    def get(self, key: str) -> Any:
        result = self._of(key).result()
        return result and {**result, "model": self._model(key)}  # it may have had another name

    def put(self, key: str, result: Any) -> None:
        self._of(key).finish(result, self.now)

    def close(self) -> None:
        """Statistics outlive the run."""

    def _model(self, key: str) -> str:
        return key.removeprefix(f"{self.stage} ")

    def _of(self, key: str) -> ModelStatistics:
        return self.store.models[self._model(key)]


def statistics_key(
    tensors: Mapping[str, Any], windows: ModelWindows, versions: Mapping[str, str]
) -> str:
    """A digest of all that a model's statistics depend on.

    tensors: the model's config, and digests of all its tensors.   versions: of the libraries.
    """
    content = {
        "code": CODE_VERSION,
        "model": tensors,
        "text": asdict(windows),
        "versions": dict(versions),
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()[:32]


def open_statistics(
    url: str, keys: Mapping[str, str], now: datetime, scratch: str | None = None
) -> StatisticsStore:
    """Statistics of models below a registry's storage, marked as used; others go that are unused.

    keys: by model.   scratch: a directory for those that are missing; then nothing is changed
    elsewhere.
    """
    found = {model: ModelStatistics(url, f"{DIRECTORY}/{key}") for model, key in keys.items()}
    if scratch is not None:
        for model, one in found.items():
            if one.result() is None:
                found[model] = ModelStatistics(scratch, keys[model])
        return StatisticsStore(found)
    for one in found.values():
        one.finish(one.result(), now)
    remove_unused(open_storage(url), DIRECTORY, END, now)
    return StatisticsStore(found)


def _read(model: str, there: ModelStatistics, layer: int, index: int) -> dict[str, torch.Tensor]:
    data = there.storage.read(there.path(layer, index))
    what = f"statistics of model {model!r}, layer {layer}, expert {index}"
    if data is None:
        raise RunFailed(f"{what} are gone: run this again")
    if hashlib.sha256(data[DIGEST_BYTES:]).digest() != data[:DIGEST_BYTES]:
        place = there.storage.name(there.directory)
        raise RunFailed(f"{what} are damaged: remove {place} and run this again")
    return decode_tensors(data[DIGEST_BYTES:])


class _Recent:
    """The files that were read last, for who asks for matrices one by one, in any order."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held: dict[tuple[Any, ...], dict[str, torch.Tensor]] = {}
        self._lock = Lock()

    def read(
        self, model: str, there: ModelStatistics, layer: int, index: int
    ) -> dict[str, torch.Tensor]:
        """The tensors of a file; as `_read`."""
        key = model, there, layer, index
        with self._lock:
            found = self._held.pop(key, None)
        if found is None:
            found = _read(*key)
        with self._lock:
            self._held[key] = found
            while len(self._held) > 1 and self._num_bytes() > self._most_bytes:
                del self._held[next(iter(self._held))]
        return found

    def _num_bytes(self) -> int:
        return sum(tensor.nbytes for held in self._held.values() for tensor in held.values())


_recent = _Recent(KEPT_BYTES)


@lru_cache(16)
def _factor(model: str, there: ModelStatistics) -> float:
    data = there.storage.read(there.factor_path)
    if data is None:
        raise RunFailed(f"statistics of model {model!r} are gone: run this again")
    return float(parse_json(data))


def _metric(found: Mapping[str, torch.Tensor], name: str, device: torch.device) -> Metric:
    gain, moments, inputs, gradients = (
        to_device(found[f"{name}.{what}"], device).float()
        for what in ("gain", "moments", "inputs", "gradients")
    )
    return Metric(
        gain=gain,
        moments=moments,
        num_columns=inputs.shape[1],
        samples=Samples(inputs, gradients, float(found[f"{name}.trust"])),
    )


def _tensors(name: str, metric: Metric) -> dict[str, torch.Tensor]:
    """What is kept of the metric of one matrix."""
    samples = metric.samples
    if samples is None:
        raise AssertionError("metrics of statistics have samples")
    return {
        f"{name}.gain": metric.gain,
        f"{name}.moments": metric.moments,
        f"{name}.inputs": samples.inputs.bfloat16(),
        f"{name}.gradients": samples.gradients.bfloat16(),
        f"{name}.trust": torch.tensor(samples.trust),
    }

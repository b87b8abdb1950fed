"""Statistics as they are kept: one file an expert, with the metrics of its matrices.

Gathers nothing: `statistics/gathering.py` writes here, comparing and building read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from consolidation.arithmetic.metric import Metric, Samples
from consolidation.errors import RunFailed
from consolidation.release.storage import open_storage
from consolidation.release.tensors import decode_tensors, encode_tensors


@dataclass(frozen=True, slots=True)
class StatisticsStore:
    """Statistics below one directory of a storage. A value: other processes can be given it."""

    url: str
    directory: str

    def metric(self, model: str, layer: int, index: int, name: str) -> Metric:
        """The metric of one matrix of one expert. Raises `RunFailed` when it is not there."""
        found = _read(self, model, layer, index)
        inputs = found[f"{name}.inputs"]
        return Metric(
            gain=found[f"{name}.gain"],
            moments=found[f"{name}.moments"],
            num_columns=inputs.shape[1],
            samples=Samples(inputs, found[f"{name}.gradients"], float(found[f"{name}.trust"])),
        )

    def path(self, model: str, layer: int, index: int) -> str:
        """The file of one expert, relative to the storage."""
        return f"{self.directory}/statistics/{model}/{layer}/{index}.safetensors"

    def keep(self, model: str, layer: int, index: int, metrics: Mapping[str, Metric]) -> None:
        """Write the metrics of one expert, by matrix."""
        tensors: dict[str, torch.Tensor] = {}
        for name, metric in metrics.items():
            tensors |= _tensors(name, metric)
        path = self.path(model, layer, index)
        open_storage(self.url).write(path, encode_tensors(tensors))

    def there(self, model: str, experts: Sequence[int]) -> bool:
        """Whether all of a model's statistics are kept. experts: their number, by layer."""
        storage = open_storage(self.url)
        return all(
            storage.size(self.path(model, layer, index)) is not None
            for layer, num_experts in enumerate(experts)
            for index in range(num_experts)
        )


@lru_cache(16)
def _read(store: StatisticsStore, model: str, layer: int, index: int) -> dict[str, torch.Tensor]:
    data = open_storage(store.url).read(store.path(model, layer, index))
    if data is None:
        raise RunFailed(f"statistics of model {model!r}, layer {layer}, expert {index} are gone")
    return decode_tensors(data)


def _tensors(name: str, metric: Metric) -> dict[str, torch.Tensor]:
    """What is kept of the metric of one matrix."""
    samples = metric.samples
    if samples is None:
        raise AssertionError("metrics of statistics have samples")
    return {
        f"{name}.gain": metric.gain,
        f"{name}.moments": metric.moments,
        f"{name}.inputs": samples.inputs,
        f"{name}.gradients": samples.gradients,
        f"{name}.trust": torch.tensor(samples.trust),
    }

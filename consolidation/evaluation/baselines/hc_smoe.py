"""Agglomerative clustering on expert outputs (HC-SMoE: Chen et al., arXiv 2410.08589, section 3).

The description of an expert is its mean output over calibration tokens. Descriptions are clustered
by average linkage on Euclidean distance, and the expert of a cluster is the mean of its members,
weighted by how often their routers choose them. The paper does this within one model. Here the
experts of all models at a layer are clustered together, into as many clusters as one model has
experts, on the same tokens: an equal part from each model's own calibration text at that layer.

Bytes: one model's experts, in their own dtype, and 2 bytes per expert for its cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from sklearn.cluster import AgglomerativeClustering

from consolidation.evaluation.baselines.activations import mean_outputs, see
from consolidation.evaluation.baselines.subjects import Subjects, Tensors
from consolidation.statistics.windows import Window
from consolidation.walk.filling import Filling
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights

PLACE_BYTES = 2
NUM_TOKENS = 1024
"""How many tokens, of all models together, every expert of a layer runs on."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """One layer's clusters. labels: (M, E), of experts; shares: (clusters, M, E), of members."""

    labels: torch.Tensor
    shares: torch.Tensor


class HcSmoe:
    """As many clusters at a layer as a model has experts. Runs every model once to form them.

    One layer of a model is in memory at a time, and only until this is made.
    """

    def __init__(self, subjects: Subjects, windows: Mapping[str, Sequence[Window]]) -> None:
        self.name = "hc-smoe"
        self._subjects = subjects
        self._layers = _all_clusters(subjects, windows)

    @property
    def expert_bytes(self) -> int:
        """See `Method.expert_bytes`."""
        subjects = self._subjects
        num_experts = sum(subjects.num_experts(layer) for layer in range(subjects.num_layers))
        return subjects.one_model_bytes + PLACE_BYTES * len(subjects.names) * num_experts

    def experts(self, model: str, layer: int) -> Tensors:
        """See `Method.experts`."""
        clusters = self._layers[layer]
        mine = clusters.labels[self._subjects.names.index(model)]  # (E,)
        shares = clusters.shares.flatten(1)  # (clusters, M * E)
        return {
            name: self._subjects.rounded(torch.tensordot(shares, stack.flatten(0, 1), 1))[mine]
            for name, stack in self._subjects.all_models(layer).items()
        }


def _all_clusters(
    subjects: Subjects, windows: Mapping[str, Sequence[Window]]
) -> tuple[Clusters, ...]:
    models = [StreamedModel(CheckpointWeights(subjects.models[name])) for name in subjects.names]
    num_tokens = NUM_TOKENS // len(models)
    seen = [
        see(model, windows[name], num_tokens=num_tokens)
        for name, model in zip(subjects.names, models, strict=True)
    ]
    found = []
    for layer in range(subjects.num_layers):
        hidden = torch.cat([of_model[layer].hidden for of_model in seen])
        uses = torch.stack([of_model[layer].uses for of_model in seen])
        outputs = []
        for name, model in zip(subjects.names, models, strict=True):
            experts = model.experts_module(layer)
            with Filling(model.device) as filling:
                filling.put_all(experts, subjects.model(name, layer))
                outputs.append(mean_outputs(experts, hidden))
        found.append(_clusters(torch.stack(outputs), uses))
    return tuple(found)


def _clusters(outputs: torch.Tensor, uses: torch.Tensor) -> Clusters:
    """outputs: (M, E, H)   uses: (M, E)"""
    num_clusters = outputs.shape[1]
    clustering = AgglomerativeClustering(num_clusters, linkage="average")
    labels = torch.from_numpy(clustering.fit_predict(outputs.flatten(0, 1).double().numpy()))
    members = torch.nn.functional.one_hot(labels, num_clusters).T.float()  # (clusters, M * E)
    weights = members * uses.flatten()
    # Experts that no token was sent to have equal weights.
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, members)
    shares = weights / weights.sum(1, keepdim=True)
    return Clusters(labels.view(uses.shape), shares.view(-1, *uses.shape))

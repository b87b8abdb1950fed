"""Runs every method on every model's data, a layer of a model at a time. Prints nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from consolidation.arithmetic.on_device import CPU, same_sums
from consolidation.checkpoints.checkpoint import Checkpoint
from consolidation.errors import Refused
from consolidation.evaluation.data import ModelData
from consolidation.evaluation.measures import MethodScore, ModelScore
from consolidation.evaluation.methods import Method, MethodWeights, ReleaseMethod
from consolidation.evaluation.reference import Reference, reference_work
from consolidation.run.executor import Progress
from consolidation.walk.course import Course
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights, Weights


def evaluate(
    originals: Mapping[str, Checkpoint],
    data: Mapping[str, ModelData],
    methods: Sequence[Method],
    *,
    base: Checkpoint | None = None,
    device: torch.device = CPU,
    progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[MethodScore, ...]:
    """Scores of the methods, in the same order, each over all models with data, sorted.

    Each model runs as it is, and then with each method's experts in place of its own. With a base,
    that runs in between, once for each model, unless it has another vocabulary. Raises `Refused`
    for a model that cannot be run, `RunFailed` for a method that does not return experts.
    """
    for name in sorted({method.name for method in methods}):
        if sum(method.name == name for method in methods) > 1:
            raise Refused(f"two methods are called {name!r}")
    scores: dict[str, list[ModelScore]] = {method.name: [] for method in methods}
    for name in sorted(data):
        checkpoint = originals[name]
        has_base = base is not None and base.vocab_size == checkpoint.vocab_size
        runs = _Runs(name, data[name], 1 + has_base + len(methods), device, progress)
        original = runs.begin(CheckpointWeights(checkpoint))
        with same_sums(device), Reference(name, original, data[name]) as reference:
            kl_base = None
            if base is not None and has_base:
                kl_base = reference.score(runs.begin(CheckpointWeights(base))).kl
            for method in methods:
                model = runs.begin(MethodWeights(checkpoint, method, name))
                score = replace(reference.score(model), kl_base=kl_base)
                scores[method.name].append(_with_prediction(score, method))
        progress(Progress(name, runs.total, runs.total))
    one_model = min(checkpoint.expert_bytes for checkpoint in originals.values())
    return tuple(
        MethodScore(
            method=method.name,
            expert_bytes=method.expert_bytes,
            bytes_of_one_model=method.expert_bytes / one_model,
            models=tuple(scores[method.name]),
        )
        for method in methods
    )


class _Runs:
    """Models that run on the data of one, the first as its reference. Tells how far each is."""

    def __init__(
        self,
        name: str,
        data: ModelData,
        total: int,
        device: torch.device,
        progress: Callable[[Progress], None],
    ) -> None:
        self.total = total
        self._name = name
        self._data = data
        self._device = device
        self._progress = progress
        self._begun = 0

    def begin(self, weights: Weights) -> StreamedModel:
        """The next of the models."""
        done = self._begun
        self._begun += 1

        def tell(share: float) -> None:
            self._progress(Progress(self._name, done, self.total, share=share))

        tell(0.0)
        course = Course(tell, reference_work(self._data, models=0))
        return StreamedModel(weights, self._device, course.passed)


def _with_prediction(score: ModelScore, method: Method) -> ModelScore:
    if not isinstance(method, ReleaseMethod):
        return score
    return replace(score, predicted_kl=method.predicted_kl(score.model))

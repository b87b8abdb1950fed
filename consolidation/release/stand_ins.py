"""How much of each model is stored as another's, because only noise differs. Compares nothing."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from consolidation.release.manifest import Manifest


@dataclass(frozen=True, slots=True)
class StoodIn:
    """How many experts, and tensors of the backbone, of one model another's stand for."""

    model: str
    other: str
    experts: int
    tensors: int

    def __str__(self) -> str:
        """A sentence for people."""
        counts = [(self.experts, "expert"), (self.tensors, "tensor")]
        words = [f"{n} {what}{'' if n == 1 else 's'}" for n, what in counts if n]
        return (
            f"{' and '.join(words)} of {self.model} differ from {self.other}'s by noise alone, and "
            f"are stored as {self.other}'s"
        )


def stood_in(manifest: Manifest) -> Iterator[StoodIn]:
    """For each model, and by whose tensors stand for its own."""
    modules = {layer.module for layer in manifest.layers}
    for name, model in sorted(manifest.models.items()):
        of_expert = {key for key in model.stand_ins if key.rpartition(".")[0] in modules}
        experts = Counter(model.stand_ins[key] for key in of_expert)
        every = Counter(model.stand_ins.values())
        for other in sorted(every):
            yield StoodIn(name, other, experts[other], every[other] - experts[other])

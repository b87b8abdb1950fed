"""Which arms are left out of a comparison, whatever is installed."""

from dataclasses import dataclass

from serve_app.bench.arms.arm import Ground
from serve_app.bench.arms.arm_catalogue import ARMS, PRECISIONS, why_not_here
from serve_app.engine.config import EngineConfig
from serve_app.engine.source import ReleaseSource
from tests.support.checkpoints import tiny_model
from tests.support.sources import MemorySource


@dataclass(frozen=True)
class Made:
    """The source of a release of one tiny model."""

    architecture: str

    def open(self) -> ReleaseSource:
        return MemorySource("r1", {"m": tiny_model(self.architecture, 1)})


def test_only_transformers_own_batching_cannot_serve_an_encoder_and_a_decoder() -> None:
    left_out = {}
    for architecture in ("mixtral", "switch_transformers"):
        ground = Ground(Made(architecture), ("m",), EngineConfig(device="cpu"))
        why = {name: why_not_here(name, ground) for name in ARMS if name not in PRECISIONS}
        left_out[architecture] = {name: words for name, words in why.items() if words}
    why_not = {"transformers": "its continuous batching is for decoders alone"}
    assert left_out == {"mixtral": {}, "switch_transformers": why_not}

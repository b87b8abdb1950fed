"""Measures what consolidating takes, over reading the checkpoints once."""

from serve_app.bench.consolidate.consolidating import Subject, measured_run
from serve_app.bench.result.measured import Measured, OnProgress
from serve_app.bench.weights.shapes import SHAPES

SHAPE = SHAPES["qwen3-moe"]
LAYERS = 1
"""One layer of 128 experts: what all stages take grows with the bytes, so a layer tells."""
NUM_MODELS = 2
BUDGET = 1.0
CORES = 2


def consolidate_over_read(on_progress: OnProgress = lambda *_: None) -> Measured:
    """Seconds of all stages, over those of reading the bytes at 3 GB/s.   Raises: RunFailed."""
    subject = Subject(SHAPE.config(LAYERS), NUM_MODELS)
    facts = measured_run(subject, BUDGET, CORES, on_progress)
    return Measured(facts["over_stated_read"], facts)

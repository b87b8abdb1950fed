"""The originals score what their makers say, which holds the definitions to theirs."""

import pytest

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.data import encode, read_files
from consolidation.evaluation.reference import Reference
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights
from tests.support.shared import shared

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("model", "accuracy"), [("news", 0.805), ("sentiment", 0.725)])
def test_an_original_is_right_as_often_as_it_was(model: str, accuracy: float) -> None:
    directory = shared(f"families/tiny-mixtral/{model}")
    files = read_files({model: shared(f"data/tasks/{model}_val.jsonl")}, {})
    checkpoint = open_checkpoint(directory)
    data = encode(files, {model: checkpoint})[model]
    original = StreamedModel(CheckpointWeights(checkpoint))
    with Reference(model, original, data) as reference:
        found = reference.score(original)
    assert found.accuracy_original == found.accuracy == pytest.approx(accuracy)


@pytest.mark.parametrize(("model", "perplexity"), [("bard", 94.6), ("code", 57.4)])
def test_an_original_has_the_perplexity_it_had(model: str, perplexity: float) -> None:
    directory = shared(f"families/tiny-mixtral/{model}")
    files = read_files({}, {model: shared(f"data/text/{model}_val.txt")})
    checkpoint = open_checkpoint(directory)
    data = encode(files, {model: checkpoint})[model]
    original = StreamedModel(CheckpointWeights(checkpoint))
    with Reference(model, original, data) as reference:
        found = reference.score(original)
    assert found.perplexity_original == found.perplexity
    assert found.perplexity == pytest.approx(perplexity, abs=0.05)

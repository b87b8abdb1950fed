from pathlib import Path

import torch

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.evaluation.baselines.activations import mean_outputs, see
from consolidation.evaluation.baselines.hc_smoe import HcSmoe
from consolidation.evaluation.baselines.subjects import Subjects
from consolidation.statistics.text import read_calibration
from consolidation.statistics.windows import Window, model_windows
from consolidation.walk.streamed import StreamedModel
from consolidation.walk.weight_sources import CheckpointWeights
from tests.support.whole_models import load_original


def windows(subjects: Subjects) -> dict[str, list[Window]]:
    text = read_calibration(())
    return {name: model_windows(text, one)[:2] for name, one in subjects.models.items()}


def test_experts_that_do_the_same_are_found_whatever_their_place(
    family: dict[str, Path], tmp_path: Path
) -> None:
    # The same model three times over: as many clusters as it has experts are all there is.
    names = ("a", "b", "c")
    subjects = Subjects({name: open_checkpoint(family["one"]) for name in names}, None)
    method = HcSmoe(subjects, windows(subjects))
    for layer in range(subjects.num_layers):
        found, own = method.experts("b", layer), subjects.model("b", layer)
        for name in own:
            torch.testing.assert_close(found[name], own[name])


def test_there_are_as_many_different_experts_as_one_model_has(subjects: Subjects) -> None:
    method = HcSmoe(subjects, windows(subjects))
    for layer in range(subjects.num_layers):
        experts = [method.experts(name, layer)["down_proj"] for name in subjects.names]
        assert len(torch.cat(experts).flatten(1).unique(dim=0)) == subjects.num_experts(layer)
    places = len(subjects.names) * 8
    assert method.expert_bytes == subjects.one_model_bytes + 2 * places


def test_one_recipe_gives_one_result(gpt_oss: Subjects) -> None:
    one, two = (HcSmoe(gpt_oss, windows(gpt_oss)).experts("one", 1) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_each_expert_s_mean_output_is_what_the_module_gives(family: dict[str, Path]) -> None:
    experts = load_original(family["one"]).model.layers[0].mlp.experts
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    found = mean_outputs(experts, hidden)
    with torch.no_grad():
        gate, up = (hidden @ experts.gate_up_proj[2].T).chunk(2, -1)
        wanted = (torch.nn.functional.silu(gate) * up) @ experts.down_proj[2].T
    torch.testing.assert_close(found[2], wanted.mean(0))


def test_uses_are_counted_and_a_bounded_number_of_tokens_kept(family: dict[str, Path]) -> None:
    seen = see(
        StreamedModel(CheckpointWeights(open_checkpoint(family["one"]))),
        [Window(tuple(range(40)), 1), Window(tuple(range(9)), 1)],
        num_tokens=10,
    )
    assert [int(layer.uses.sum()) for layer in seen] == [2 * 49, 2 * 49]
    assert [layer.hidden.shape for layer in seen] == [(10, 32), (10, 32)]

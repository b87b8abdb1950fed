from dataclasses import replace

import pytest
import torch

from consolidation.checkpoints.checkpoint import ExpertsSource
from consolidation.checkpoints.contents import User
from consolidation.compare.kin import Kin
from consolidation.compare.layer import CompareTask, Distinct
from consolidation.compare.origins import parts_of
from representation.formats import ExpertShape

BYTES = 100
KIN = (Kin((0, 5), {}), Kin((1, 4), {4: 4}), Kin((2,), {}), Kin((3,), {}))


def layer(num_experts: int = 6) -> CompareTask:
    """Experts of one model at one layer, of 100 bytes each."""
    shape = ExpertShape({"up_proj": (2, 5)}, False)
    source = ExpertsSource("experts", num_experts, shape, None, (), num_experts * BYTES)
    experts = tuple(Distinct(source, i, (User("m", i, 1.0),), str(i)) for i in range(num_experts))
    return CompareTask(0, experts, None, (), None, torch.bfloat16)


@pytest.mark.parametrize(
    ("most_bytes", "positions"),
    [
        (1000, [(0, 1, 2, 3, 4, 5)]),
        (300, [(0, 1, 4, 5), (2, 3)]),
        (200, [(0, 5), (1, 4), (2, 3)]),
        (1, [(0, 5), (1, 4), (2,), (3,)]),
    ],
)
def test_parts_of_a_layer_hold_each_origin_whole(
    most_bytes: int, positions: list[tuple[int, ...]]
) -> None:
    task = layer()
    parts = list(parts_of(task, KIN, most_bytes))
    assert [there for _, there in parts] == positions
    for part, there in parts:
        assert [expert.index for expert in part.experts] == list(there)
        assert {kin.numbered(there.__getitem__).members for kin in part.kin} <= {
            kin.members for kin in KIN
        }
    found = [kin.numbered(there.__getitem__) for part, there in parts for kin in part.kin]
    assert found == list(KIN)


def test_a_layer_that_is_to_have_few_formats_is_one_part() -> None:
    task = replace(layer(), max_formats=2)
    ((part, there),) = parts_of(task, KIN, 1)
    assert there == tuple(range(6))
    assert part.kin == KIN


def test_a_layer_without_experts_has_no_parts() -> None:
    assert list(parts_of(layer(0), (), 100)) == []


def test_kin_survive_being_written_down() -> None:
    assert [Kin.from_json(kin.to_json()) for kin in KIN] == list(KIN)

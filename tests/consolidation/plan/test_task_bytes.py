from dataclasses import replace
from itertools import pairwise

import pytest

from consolidation.arithmetic.metric import Metric, Samples
from consolidation.plan.task_bytes import (
    BESIDE,
    build_bytes,
    compare_bytes,
    stage_bytes,
    statistics_bytes,
    tasks_at_once,
)
from consolidation.statistics.moments import SAMPLES
from representation.formats import ExpertShape
from tests.consolidation.metrics import correlated_metric, random_matrix

MIXTRAL = ExpertShape({"gate_up_proj": (28672, 4096), "down_proj": (4096, 14336)}, False)
QWEN3 = ExpertShape({"gate_up_proj": (1536, 2048), "down_proj": (2048, 768)}, False)


def layer_bytes(shape: ExpertShape, num_models: int, num_experts: int) -> int:
    return 2 * shape.num_weights * num_models * num_experts


def sampled_metric(num_rows: int, num_columns: int) -> Metric:
    inputs, gradients = random_matrix(SAMPLES, num_columns), random_matrix(SAMPLES, num_rows)
    return replace(
        correlated_metric(num_rows, num_columns), samples=Samples(inputs, gradients, 0.5)
    )


@pytest.mark.parametrize(("shape", "num_experts"), [(MIXTRAL, 8), (QWEN3, 128)])
@pytest.mark.parametrize("num_models", [2, 4, 8])
def test_a_task_takes_less_than_the_layer_may(
    shape: ExpertShape, num_experts: int, num_models: int
) -> None:
    whole = layer_bytes(shape, num_models, num_experts)
    for task in (compare_bytes(shape, num_models), build_bytes(shape, num_models)):
        at_once = tasks_at_once(task, whole)
        assert at_once >= 2
        assert at_once * task <= stage_bytes(whole) < (at_once + 1) * task


def test_more_models_take_more() -> None:
    for of in (compare_bytes, build_bytes):
        found = [of(QWEN3, num) for num in range(1, 40)]
        assert all(one < other for one, other in pairwise(found))


def test_one_task_runs_even_if_it_takes_more_than_there_is_room_for() -> None:
    assert tasks_at_once(4 * BESIDE, 0) == 1


def test_what_is_counted_of_statistics_is_what_is_kept() -> None:
    metric = sampled_metric(10, 300)
    assert metric.samples is not None
    tensors = [metric.gain, metric.moments, metric.samples.inputs, metric.samples.gradients]
    shape = ExpertShape({"up_proj": (10, 300)}, False)
    assert statistics_bytes(shape) == sum(tensor.nbytes for tensor in tensors)

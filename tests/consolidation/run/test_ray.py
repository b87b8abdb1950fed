import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from consolidation.errors import Refused, RunFailed
from consolidation.pipeline import consolidate
from consolidation.run.executor import LocalExecutor
from consolidation.run.ray_tasks import STEPS, RayExecutor, gpu_share, visible_gpu
from tests.consolidation.families import write_family
from tests.consolidation.run.deaths import (
    WhenRead,
    alone,
    dies,
    dies_halfway_once,
    dies_once,
    priority,
    refuses,
    same,
    together,
)
from tests.consolidation.running import recipe_of

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def executor() -> Iterator[RayExecutor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "init", partial(ray.init, num_gpus=1))
        with RayExecutor() as found:
            yield found


def test_a_task_whose_worker_died_is_run_again(executor: RayExecutor, tmp_path: Path) -> None:
    tasks = [str(tmp_path / name) for name in "ab"]
    assert dict(executor.map(dies_once, tasks)) == {0: "done", 1: "done"}


def test_a_task_that_kills_every_worker_fails(executor: RayExecutor) -> None:
    with pytest.raises(RunFailed, match="could not be run"):
        list(executor.map(dies, [1]))


def test_a_task_tells_how_far_it_is_also_when_it_is_run_again(
    executor: RayExecutor, tmp_path: Path
) -> None:
    told: dict[int, list[float]] = {0: [], 1: []}
    tasks = [str(tmp_path / "dies"), str(tmp_path)]
    ran = executor.map(
        dies_halfway_once, tasks, on_share=lambda index, share: told[index].append(share)
    )
    assert dict(ran) == {0: "done", 1: "done"}
    for shares in told.values():
        assert shares == [(1 + step) / STEPS for step in range(STEPS)]


def test_what_a_task_refuses_is_refused_here(executor: RayExecutor) -> None:
    with pytest.raises(Refused, match=r"^not 2$"):
        list(executor.map(refuses, [1, 2, 3]))


def test_tasks_run_at_the_priority_that_was_asked(executor: RayExecutor) -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert dict(executor.map(priority, [1])) == {0: usual}
    low = RayExecutor(nice=19)
    assert dict(low.map(same, [WhenRead()])) == {0: 19}, "what a task needs is imported at it too"
    assert dict(low.map(priority, [1])) == {0: 19}


def test_tasks_that_would_fill_the_memory_run_one_after_another(
    executor: RayExecutor, tmp_path: Path
) -> None:
    tasks = [str(tmp_path / "here")] * 3
    assert dict(executor.map(alone, tasks, task_bytes=1 << 62)) == dict.fromkeys(range(3), True)


def test_tasks_share_a_gpu_by_what_they_take_of_its_memory(
    executor: RayExecutor, tmp_path: Path
) -> None:
    known = RayExecutor(gpu_bytes=100)
    tasks = [str(tmp_path / "here")] * 2
    assert dict(known.map(alone, tasks, device_bytes=51)) == dict.fromkeys(range(2), True)
    assert dict(known.map(together, [str(tmp_path / n) for n in "ab"], device_bytes=50)) == {
        0: "0",
        1: "0",
    }


def test_tasks_for_gpus_fail_where_there_is_none(
    executor: RayExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(RunFailed, match="no machine of the Ray cluster has one"):
        list(executor.map(same, [1], device_bytes=1))


@given(st.integers(1, 1 << 40), st.integers(1, 1 << 40))
def test_tasks_with_shares_of_a_gpu_fit_it(task: int, gpu: int) -> None:
    share = gpu_share(task, gpu)
    assert 0 < share <= 1
    assert int(1 / share) * task <= gpu or share == 1
    assert gpu_share(task, None) == 1


def test_a_cluster_of_its_own_is_shown_one_gpu_of_those_that_are_visible() -> None:
    assert visible_gpu(None, 1) == "1"
    assert visible_gpu("4, 6", 1) == "6"


def test_ray_and_one_process_give_the_same_release(executor: RayExecutor, tmp_path: Path) -> None:
    models = {n: p for n, p in write_family(tmp_path).items() if n in ("one", "two")}
    recipes = [recipe_of(tmp_path / n, models, 1.5) for n in "xy"]
    here = consolidate(recipes[0], executor=LocalExecutor())
    there = consolidate(recipes[1], executor=executor)
    assert here.release == there.release

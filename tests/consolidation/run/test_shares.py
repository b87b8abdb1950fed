"""How far a stage is, also within its tasks."""

from pathlib import Path

import pytest

from consolidation.pipeline import Progress, consolidate
from consolidation.run.executor import LocalExecutor, Tell
from consolidation.run.journal import NoJournal, Stages
from tests.consolidation.families import write_family
from tests.consolidation.running import recipe_of


def halves(task: str, tell: Tell) -> str:
    tell(0.5)
    return task


def test_a_stage_tells_tasks_and_bytes_also_of_tasks_that_run() -> None:
    told: list[Progress] = []
    stages = Stages(LocalExecutor(), NoJournal(), told.append)
    tasks = [("a", "a"), ("b", "b")]
    stages.run("copy", halves, tasks, noun="files", sizes=[100, 300], tells=True)
    assert [(now.done + now.share, now.num_bytes) for now in told] == [
        (0, (0, 400, 0)),
        (0.5, (50, 400, 0)),
        (1, (100, 400, 0)),
        (1.5, (250, 400, 0)),
        (2, (400, 400, 0)),
    ]


def test_stages_that_run_models_tell_how_far_each_model_is(tmp_path: Path) -> None:
    models = {n: p for n, p in write_family(tmp_path).items() if n in ("base", "one", "two")}
    base = models.pop("base")
    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be, that is the question. " * 40)
    recipe = recipe_of(
        tmp_path / "r",
        models,
        1.0,
        base=base,
        calibration=((None, text),),
        texts={"one": text},
    )
    told: dict[str, list[float]] = {}
    consolidate(
        recipe,
        executor=LocalExecutor(),
        progress=lambda now: told.setdefault(now.stage, []).append(now.done + now.share),
    )
    for stage in ("calibrate", "effect", "validate"):
        shares = told[stage]
        assert shares == sorted(shares)
        assert len({share for share in shares if 0 < share < 1}) >= 10
        last = max(share for share in shares if share < len(models))
        assert last == pytest.approx(len(models), abs=0.1), f"{stage}: what was counted is the work"

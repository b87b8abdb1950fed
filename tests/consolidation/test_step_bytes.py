"""Bytes that a decode step reads: a plan and the release that is made of it say the same."""

from pathlib import Path

import pytest

from consolidation.pipeline import Consolidated
from representation.step_reads import DecodeStep
from tests.consolidation.running import Paths, manifest_of, pick, run


def said(outcome: Consolidated) -> int:
    manifest = manifest_of(outcome)
    assert manifest.decode_step == outcome.plan.decode_step == DecodeStep(2)
    assert manifest.step_bytes == outcome.plan.step_bytes
    return outcome.plan.step_bytes


@pytest.fixture(scope="module")
def whole(family: Paths, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Consolidated]:
    registry = tmp_path_factory.mktemp("registry")
    return registry, run(registry, pick(family, "base", "one"))


def test_a_plan_and_its_release_say_the_same(family: Paths, tmp_path: Path) -> None:
    outcome = run(tmp_path, family, 0.8)
    assert any(layer.residuals for layer in manifest_of(outcome).layers)
    assert 0 < said(outcome) <= outcome.plan.expert_bytes_after


def test_a_release_that_is_extended_is_counted_with_what_it_keeps(
    family: Paths, whole: tuple[Path, Consolidated]
) -> None:
    registry, before = whole
    after = run(registry, pick(family, "two"), 2.3, extend=before.release)
    assert said(after) > said(before)
    less = run(registry, {}, extend=before.release, remove=("one",))
    assert said(less) < said(before)

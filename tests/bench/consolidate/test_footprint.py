from pathlib import Path

import pytest

from serve_app.bench.consolidate.footprint import FamilyShape, Stage, measure, write_checkpoints

SLACK = 24 << 20
"""What the allocator keeps, and the libraries that the first task of a kind imports."""


def stages(directory: Path, num_layers: int) -> dict[str, Stage]:
    shape = FamilyShape(
        num_models=3, num_layers=num_layers, num_experts=8, hidden_size=256, intermediate_size=512
    )
    found = measure(write_checkpoints(directory, shape), directory / "registry", 1.0)
    return {stage.name: stage for stage in found}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_scanning_comparing_and_building_hold_does_not_grow_with_layers(
    tmp_path: Path,
) -> None:
    few, many = stages(tmp_path / "few", 2), stages(tmp_path / "many", 6)
    for name in ("scan", "compare", "plan", "backbone", "build"):
        held = few[name].anonymous_bytes, many[name].anonymous_bytes
        assert held[1] < 1.1 * held[0] + SLACK, f"{name}: {held}"

"""Tests of a file go to one process, and all that start Ray to the same one."""

from pathlib import Path

import pytest

from tests.support.file_groups import RAY, ROOT, FileByFile, group_of


def test_tests_of_a_file_are_one_group_and_those_of_ray_another() -> None:
    files = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")]
    groups = {file: group_of(file) for file in files}
    assert groups["tests/cli/test_use.py"] == "tests/cli/test_use.py"
    of_ray = {Path(file).stem for file, group in groups.items() if group == RAY}
    assert {"test_consolidate", "test_endpoint", "test_ray", "test_run", "test_signals"} <= of_ray
    assert len(of_ray) < 30


RAN_HERE: list[int] = []


@pytest.mark.parametrize("number", range(4))
def test_one_process_runs_all_tests_of_a_file(number: int, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("tests do not go to processes by group")
    name = f"{request.path.stem}.py::test_one_process_runs_all_tests_of_a_file["
    selected = [n for n in range(4) for i in request.session.items if f"{name}{n}]" in i.nodeid]
    assert [n for n in selected if n < number] == RAN_HERE
    RAN_HERE.append(number)


def test_the_scheduler_knows_a_test_by_its_file() -> None:
    scope = FileByFile._split_scope
    nothing = object.__new__(FileByFile)
    assert scope(nothing, "tests/cli/test_use.py::test_a[x::y@z]") == "tests/cli/test_use.py"

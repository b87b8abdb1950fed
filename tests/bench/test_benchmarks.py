"""Every `bench` command has its folder: what a new benchmark must bring."""

from pathlib import Path

import pytest

import serve_app.bench
from serve_app.bench.benchmark_pages import SECTIONS
from tests.cli.tree import TREE

MAKES = "make-checkpoint"
"""The one command that measures nothing: it makes what others measure."""
BENCHMARKS = {
    path[1]: command for path, command in TREE.items() if path[0] == "bench" and path[1] != MAKES
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_a_folder_with_what_the_terminal_shows_and_its_page(name: str) -> None:
    folder = Path(serve_app.bench.__file__).parent / name
    assert list(folder.glob("*_terminal.py")) != []
    options = {option for parameter in BENCHMARKS[name].params for option in parameter.opts}
    if "--html" in options:
        assert SECTIONS[name].__module__ == f"serve_app.bench.{name}.{name}_page"


def test_no_page_is_left_of_a_benchmark_that_is_gone() -> None:
    assert set(SECTIONS) <= set(BENCHMARKS)

"""The map in docs/architecture.md agrees with the tree, and what compares them can fail."""

from pathlib import Path

import pytest

from tests.docs.folder_map import (
    Row,
    folder_imports,
    folder_lines,
    missing_rows,
    read_map,
    wrong_importers,
)

ROOT = Path(__file__).parents[2]
NAMES = ("consolidation", "representation", "serve_app")
MAP = read_map((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
LINES = folder_lines(ROOT / name for name in NAMES)


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return folder_imports(NAMES)


def test_every_folder_is_in_the_map_with_the_first_line_of_its_docstring() -> None:
    assert missing_rows(MAP, LINES) == []


@pytest.mark.parametrize("folder", sorted(MAP))
def test_a_folder_is_imported_by_those_that_the_map_names(
    folder: str, imports: dict[str, set[str]]
) -> None:
    assert wrong_importers(MAP[folder], imports.get(folder, set()), LINES) == []


# What follows judges made-up maps.


def test_a_row_is_read_with_its_importers() -> None:
    page = "| folder | what | who |\n| --- | --- | --- |\n| `a/b` | Does it. | `c`, `a/*` |\n"
    assert read_map(page) == {"a/b": Row("Does it.", ("c", "a/*"))}


def test_a_missing_a_needless_and_a_differing_row_are_named() -> None:
    rows = {"a": Row("One.", ()), "gone": Row("Two.", ())}
    assert missing_rows(rows, {"a": "Other.", "b": "Three."}) == [
        "no row for b: Three.",
        "no folder gone",
        "a: 'One.' is 'Other.' in its __init__.py",
    ]


def test_an_importer_that_the_map_does_not_name_is_named_and_one_that_imports_nothing_too() -> None:
    folders = ("serve_app", "serve_app/a", "serve_app/a/deep", "serve_app/b", "serve_app/c")
    row = Row("", ("a", "b", "none"))
    assert wrong_importers(row, {"serve_app/a/deep", "serve_app/c"}, folders) == [
        "none is no folder",
        "serve_app/c imports it",
        "b does not import it",
    ]
    assert wrong_importers(Row("", ("a/*",)), {"serve_app/a/deep"}, folders) == [
        "serve_app/a/deep imports it",
        "a/* does not import it",
    ]
    assert wrong_importers(Row("", ("a", "c")), {"serve_app/a", "serve_app/c"}, folders) == []

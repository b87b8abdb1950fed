"""The layout of the code, and that what judges it can fail."""

from collections.abc import Mapping
from pathlib import Path

from tests.cli.tree import TREE
from tests.house.structure import (
    crowded_folders,
    long_files,
    long_functions,
    shared_basenames,
)

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / name for name in ("consolidation", "representation", "serve_app")]


def test_no_folder_has_more_files_than_one_takes_in() -> None:
    assert crowded_folders(PACKAGES) == []


def test_no_file_is_too_long() -> None:
    assert long_files(PACKAGES) == []


def test_no_function_is_too_long_but_those_of_commands() -> None:
    allowed = {(one.callback.__module__, one.callback.__name__) for one in TREE.values()}
    assert ("serve_app.cli.consolidate", "consolidate") in allowed
    assert long_functions(PACKAGES, allowed) == []


def test_no_two_modules_have_one_name() -> None:
    assert shared_basenames(PACKAGES) == []


# What follows judges made-up trees.


def made(place: Path, files: Mapping[str, str]) -> list[Path]:
    """The packages `p` and `q`, with these files."""
    for name in ("p", "q"):
        (place / name).mkdir()
        (place / name / "__init__.py").write_text("")
    for name, text in files.items():
        file = place / name
        for folder in reversed(file.relative_to(place).parents[:-1]):
            (place / folder).mkdir(exist_ok=True)
            if not (place / folder / "__init__.py").exists():
                (place / folder / "__init__.py").write_text("")
        file.write_text(text)
    return [place / "p", place / "q"]


def function(name: str, lines: int) -> str:
    return f"def {name}() -> None:\n" + "    pass\n" * (lines - 1)


def test_a_crowded_folder_is_named_and_what_is_built_does_not_count(tmp_path: Path) -> None:
    full = {f"p/a/m{number}.py": "" for number in range(15)}
    packages = made(tmp_path, full | {"p/a/native.so": "", "p/a/b/more.py": ""})
    assert crowded_folders(packages) == []
    (tmp_path / "p" / "a" / "notes.txt").write_text("")
    assert crowded_folders(packages) == [f"{tmp_path / 'p' / 'a'}: 17 files"]


def test_a_long_file_is_named_and_data_is_not_read(tmp_path: Path) -> None:
    packages = made(tmp_path, {"p/just.py": "\n" * 350, "p/data/words.txt": "\n" * 999})
    assert long_files(packages) == []
    (tmp_path / "q" / "native.c").write_text("\n" * 351)
    assert long_files(packages) == [f"{tmp_path / 'q' / 'native.c'}: 351 lines"]


def test_a_long_function_is_named_wherever_it_stands_unless_it_is_allowed(tmp_path: Path) -> None:
    method = "class C:\n" + "".join(f"    {line}\n" for line in function("method", 61).splitlines())
    packages = made(
        tmp_path, {"p/a.py": function("just", 60), "p/b.py": function("long", 61), "q/c.py": method}
    )
    assert long_functions(packages, {("p.b", "long")}) == [
        f"{tmp_path / 'q' / 'c.py'}: method has 61 lines"
    ]
    assert len(long_functions(packages, {("q.c", "long")})) == 2


def test_modules_of_one_name_are_named_unless_it_may_be_shared(tmp_path: Path) -> None:
    packages = made(
        tmp_path, {"p/errors.py": "", "q/errors.py": "", "p/a/b.py": "", "q/a/c.py": ""}
    )
    assert shared_basenames(packages) == []
    (tmp_path / "q" / "b.py").write_text("")
    assert shared_basenames(packages) == [f"b.py: {tmp_path / 'p' / 'a'}, {tmp_path / 'q'}"]

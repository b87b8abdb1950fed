"""Wrong use, and what the command says about it."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from consolidation.sources.local_sources import local_source
from representation.names import valid_name
from serve_app.cli.main import run
from serve_app.cli.parsing import parse_models, parse_name, parse_size
from serve_app.config import ServeConfig
from serve_app.engine.config import EngineConfig
from tests.cli.tree import TREE, commands

NUMBERS = [
    (path, parameter)
    for path, command in TREE.items()
    for parameter in command.params
    if parameter.min is not None
]


def test_the_walk_finds_commands_at_every_depth() -> None:
    nested = SimpleNamespace(commands={"b": SimpleNamespace(params=[])})
    top = SimpleNamespace(commands={"a": SimpleNamespace(params=[]), "group": nested})
    assert [path for path, _ in commands(top)] == [("a",), ("group", "b")]
    assert {("consolidate",), ("bench", "load"), ("bench", "compare")} <= set(TREE)


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_a_command_says_what_it_does_and_what_each_option_means(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    command = TREE[path]
    assert run([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: expertpool {' '.join(path)} " in shown
    first_words = command.help.split()[:3]
    assert " ".join(first_words) in shown
    for parameter in command.params:
        assert parameter.help, f"{' '.join(path)}: {parameter.name} has no help"
        for option in parameter.opts:
            assert option in shown or option.upper() in shown


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_a_command_refuses_an_option_that_it_does_not_have(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path, "--no-such-option"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--no-such-option" in captured.err


@pytest.mark.parametrize(
    "path",
    [path for path, command in TREE.items() if any(p.required for p in command.params)],
    ids=" ".join,
)
def test_a_command_names_what_it_must_be_told(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(path) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    needed = [p.opts[0] for p in TREE[path].params if p.required]
    assert any(name in captured.err or name.upper() in captured.err for name in needed)


@pytest.mark.parametrize(
    ("path", "option"), NUMBERS, ids=lambda one: getattr(one, "name", None) or " ".join(one)
)
def test_a_number_below_its_least_is_refused_by_name(
    path: tuple[str, ...], option: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path, option.opts[0], str(option.min - 1)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert option.opts[0] in captured.err
    assert str(option.min) in captured.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["consolidat"], "consolidat"),
        (["releases", "--registry", "."], "--family"),
        (["releases", "--family", "f", "--registry", "/does/not/exist"], "/does/not/exist"),
        (["releases", "--family", "../f", "--registry", "."], "../f"),
        (["releases", "--family", "f", "--registry", ".", "--jsn"], "--jsn"),
        (["serve", "--family", "f", "--registry", ".", "--device", "tpu"], "tpu"),
        (["serve", "--family", "f", "--registry", ".", "--port", "99999"], "99999"),
        (["serve", "--family", "f", "--registry", ".", "--device-memory", "lots"], "lots"),
        (["plan-memory", "--family", "f", "--registry", ".", "--device-memory", "0"], "0"),
        (["releases", "--family", "f", "--registry", __file__], __file__),
        (["releases", "--family", "f", "--registry", "nosuch://x"], "nosuch://x"),
        (["releases", "--family", "f", "--registry", "memory://x"], "one process"),
        (["promote", "--family", "f", "--registry", ".", "--channel", "c"], "RELEASE"),
        (["bench", "consolidate", "--shape", "cube"], "cube"),
        (["bench", "consolidate", "--models", "0"], "--models"),
        (["bench", "consolidate", "--expert-budget", "0"], "--expert-budget"),
    ],
)
def test_wrong_use_is_exit_code_2_and_names_the_value(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert named in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--model"),
        (["--model", "a"], "'a'"),
        (["--model", "a="], "'a='"),
        (["--model", "=."], "'=.'"),
        (["--model", "a b=."], "'a b'"),
        (["--model", "a=/does/not/exist"], "/does/not/exist"),
        (["--model", "a=.", "--model", "a=.."], "'a=..'"),
        (["--model", "a=.", "--expert-budget", "0"], "--expert-budget"),
        (["--model", "a=.", "--expert-budget", "nan"], "--expert-budget"),
        (["--model", "a=.", "--expert-budget", "much"], "much"),
        (["--model", "a=.", "--target-kl", "0"], "--target-kl"),
        (["--model", "a=.", "--target-kl", "inf"], "--target-kl"),
        (["--model", "a=.", "--device-memory", "0"], "--device-memory"),
        (["--model", "a=.", "--device-memory", "24 apples"], "24 apples"),
        (["--model", "a=.", "--expert-budget", "1", "--target-kl", "1"], "--target-kl 1.0"),
        (["--model", "a=.", "--expert-budget", "1", "--device-memory", "9"], "--device-memory 9"),
        (["--model", "a=.", "--target-kl", "1", "--device-memory", "9"], "--target-kl 1.0"),
        (["--model", "a=.", "--weight", "a"], "'a' is not NAME=W"),
        (["--model", "a=.", "--weight", "a=0"], "model 'a': '0'"),
        (["--model", "a=.", "--weight", "a=-1"], "model 'a': '-1'"),
        (["--model", "a=.", "--weight", "a=two"], "model 'a': 'two'"),
        (["--model", "a=.", "--weight", "a=1", "--weight", "a=2"], "'a=2'"),
        (["--model", "a=.", "--weight", "b=2"], "'b'"),
        (["--model", "a=.", "--exact", "b"], "'b'"),
        (
            ["--model", "a=.", "--max-formats", "0"],
            "--max-formats': '0' is less than 1",
        ),
        (["--model", "a=.", "--max-formats", "1.5"], "'1.5' is not a whole number"),
        (["--model", "a=.", "--max-kl", "-1"], "--max-kl"),
        (["--model", "a=.", "--max-accuracy-drop", "-1"], "--max-accuracy-drop"),
        (["--model", "a=.", "--max-accuracy-drop", "0.1"], "--task"),
        (["--model", "a=.", "--min-retained", "0.9"], "--base"),
        (["--model", "a=.", "--max-perplexity-rise", "much"], "much"),
        (["--model", "a=.", "--max-perplexity-rise", "0.1"], "--text"),
        (["--model", "a=.", "--task", "a=/does/not/exist.jsonl"], "/does/not/exist.jsonl"),
        (["--model", "a=.", "--task", f"a={__file__}"], ".jsonl"),
        (["--model", "a=.", "--text", __file__], "is not NAME=FILE"),
        (["--model", "a=.", "--calibration", f"b={__file__}"], "'b'"),
        (["--model", "a=.", "--calibration", f"a/b={__file__}"], "'a/b'"),
        (["--model", "a=.", "--calibration", "a=/does/not/exist"], "/does/not/exist"),
        (["--model", "a=.", "--calibration", "/does/not/exist"], "/does/not/exist"),
        (["--model", "a=.", "--base", "/does/not/exist"], "/does/not/exist"),
        (["--model", "a=.", "--remove", "b"], "--extend"),
        (["--model", "a=.", "--channel", "a/b"], "a/b"),
    ],
)
def test_consolidate_refuses_what_it_cannot_understand(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = tmp_path / "registry"
    assert run(["consolidate", "--family", "f", "--registry", str(registry), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert named in captured.err
    assert not registry.exists()


def test_a_bare_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    captured = capsys.readouterr()
    assert "consolidate" in captured.out + captured.err


def test_help_comes_within_a_second() -> None:
    program = "from serve_app.cli.main import main; main()"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - start < 1.0
    assert "plan-memory" in done.stdout
    assert done.stderr == ""


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "ray", "transformers", "pydantic", "fastapi", "sklearn", "numpy"}
    program = (
        "import sys; from serve_app.cli.main import run; run(['--help']); "
        "print(' '.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not heavy & set(done.stderr.split())


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("1000", 1000),
        ("24GiB", 24 * 2**30),
        ("24Gi", 24 * 2**30),
        ("24g", 24 * 2**30),
        ("500MB", 500_000_000),
        ("1.5 GiB", 3 * 2**29),
        ("7B", 7),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "0", "-1", "1.2.3", "12XB", "GiB", "1e9", "0.1"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_size(text)


def test_models_keep_their_order_and_paths_may_hold_an_equals_sign(tmp_path: Path) -> None:
    odd = tmp_path / "step=100"
    odd.mkdir()
    models = parse_models([f"b:v1={odd}", f"a={tmp_path}"])
    assert list(models.items()) == [("b:v1", local_source(odd)), ("a", local_source(tmp_path))]


@pytest.mark.parametrize("name", ["a", "A.b_c-1", "a:b", "", ".", "..", ".a", "a/b", "a b", "ä"])
def test_the_command_accepts_the_names_that_the_registry_accepts(name: str) -> None:
    try:
        accepted = parse_name(name) == name
    except typer.BadParameter:
        accepted = False
    assert accepted == valid_name(name)


def test_what_serve_is_told_becomes_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[ServeConfig] = []
    monkeypatch.setattr("serve_app.serving.run.run", lambda config, *_, **__: told.append(config))
    given = ["serve", "--family", "f", "--registry", str(tmp_path)]
    flags = ["--no-prefix-cache", "--no-cuda-graphs", "--device-memory", "2GiB"]
    flags += ["--host-memory", "64GiB"]
    assert run(given) == run([*given, *flags]) == 0
    found = [config.engine for config in told]
    changed = EngineConfig(
        prefix_cache=False, cuda_graphs=False, device_memory=2 << 30, host_memory=64 << 30
    )
    assert found == [EngineConfig(), changed]

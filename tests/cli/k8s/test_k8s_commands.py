"""`expertpool k8s` as a user meets it: one command makes a set that the other finds right."""

import json
from pathlib import Path

import pytest
import yaml

from serve_app.cli.main import run

RENDER = ["k8s", "render", "--family", "main", "--registry", "s3://acme/registry"]


def test_one_command_makes_a_set_without_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "set.yaml"
    assert run([*RENDER, "--with", "network", "--output", str(file)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"then: kubectl apply -f {file}" in captured.err
    assert run(["k8s", "lint", str(file), "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)
    assert judged["mistakes"] == []
    assert judged["objects"] == len(list(yaml.safe_load_all(file.read_text())))


def test_a_set_goes_to_stdout_and_nothing_else_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*RENDER, "--overlay", "cpu-dev"]) == 0
    kinds = [one["kind"] for one in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds[0] == "Namespace"
    assert "RayService" in kinds


def test_mistakes_are_printed_a_line_each_and_are_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "set.yaml"
    run([*RENDER, "--output", str(file)])
    text = file.read_text()
    file.write_text(text.replace("max_replicas_per_node", "max_replicas_per_nod"))
    capsys.readouterr()
    assert run(["k8s", "lint", str(file)]) == 1
    printed = capsys.readouterr().out.splitlines()
    [line] = [each for each in printed if not each.startswith("doubtful: ")]
    assert line.startswith(f"{file}: RayService/expertpool: spec.serveConfigV2: ")
    assert line.endswith("max_replicas_per_node is one")


def test_a_set_with_mistakes_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "set.yaml"
    given = ["--set", "keys=/elsewhere/keys.yaml", "--output", str(file)]
    assert run([*RENDER, *given]) == 2
    told = capsys.readouterr().err
    assert "/elsewhere/keys.yaml" in told
    assert "nothing is written" in told
    assert not file.exists()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["--set", "engine_memory"], "'engine_memory' is not NAME=VALUE"),
        (["--set", "engines=1", "--set", "engines=1"], "engines is given twice"),
        (["--set", "enginez=1"], "enginez"),
        (["--overlay", "huge"], "huge"),
        (["--with", "redis"], "redis"),
        (["--set", "kuberay=1.4.2"], "1.5.1"),
        (["--set", "device_memory=lots"], "lots"),
        (["--set", "poll_s=60"], "poll_s"),
    ],
)
def test_wrong_use_is_exit_code_2_and_names_the_value(
    given: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*RENDER, *given]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert named in captured.err


def test_help_for_values_lists_those_of_the_set_and_of_the_endpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([*RENDER, "--set", "help"]) == 0
    printed = capsys.readouterr().out
    assert "engine_memory" in printed
    assert "device_memory" in printed

"""Where commands of consolidation compute: what is chosen, and what is refused at once."""

from pathlib import Path

import pytest
import torch

from consolidation.plan.memory_needs import Free
from serve_app.cli.computing.computing_device import computing_device, free_memory
from serve_app.cli.main import run
from serve_app.errors import ConfigError

FREE = {0: 40 << 30, 1: 20 << 30}
"""Bytes by card."""


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(FREE))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda card: (FREE[card.index], 80 << 30))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
@pytest.mark.parametrize(
    "command",
    [
        ["consolidate", "--model", "m=./nowhere"],
        ["evaluate", "--text", "m=./nowhere.txt"],
        ["verify"],
    ],
)
def test_a_card_that_is_not_here_is_refused_before_anything_is_opened(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--family", "f", "--registry", str(tmp_path / "none"), "--device", "cuda:1"]
    assert run([*command, *place]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: device: 'cuda:1', and there is no such device here"


def test_what_is_no_device_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--family", "f", "--registry", str(tmp_path)]
    assert run(["verify", *place, "--device", "gpu"]) == 2
    assert "'gpu' is not a device: give cpu, cuda, cuda:1, or auto" in capsys.readouterr().err


@pytest.mark.usefixtures("two_cards")
def test_a_card_beyond_the_last_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'cuda:7', and the only ones here are cuda:0, cuda:1"):
        computing_device("cuda:7")
    assert computing_device("cuda:1") == torch.device("cuda", 1)
    assert computing_device("auto") == torch.device("cuda")
    assert computing_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_cards")
def test_memory_is_that_of_the_card_or_of_the_one_with_the_least() -> None:
    assert free_memory(torch.device("cuda", 0)).device == FREE[0]
    assert free_memory(torch.device("cuda")).device == FREE[1]
    assert free_memory(torch.device("cpu")).device is None


def test_on_a_cluster_elsewhere_ray_gives_out_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert computing_device("cuda") == torch.device("cuda")
    assert free_memory(torch.device("cuda")) == Free()
    for wanted in ("cuda:1", "auto"):
        with pytest.raises(Exception, match=f"--device {wanted}: .* Ray gives out cards"):
            computing_device(wanted)

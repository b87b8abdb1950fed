"""`serve --config`: a file says what options say, and more; options replace what it says."""

from pathlib import Path
from typing import Any

import pytest

from serve_app.cli.main import run
from serve_app.cli.serve.serve_file import ServeFile
from serve_app.config import ServeConfig
from serve_app.engine.config import EngineConfig
from serve_app.errors import DoesNotFit
from tests.cli.tree import TREE

FILE = """
family: fam
registry: ./registry
channel: beta
port: 8123
host: localhost
ingresses: 2
drain_s: 5
reload: drain
log_level: error
allow_origin: [http://a.example, "http://b.example:3000"]
insecure_no_keys: yes
usage: usage
device: cpu
kv_tokens: 4096
device_memory: 2GiB
max_model_wait_s: 2.5
prefix_cache: false
"""
OPTIONS = [
    "--family",
    "fam",
    "--registry",
    "registry",
    "--channel",
    "beta",
    "--port",
    "8123",
    "--host",
    "localhost",
    "--ingresses",
    "2",
    "--drain",
    "5",
    "--reload",
    "drain",
    "--log-level",
    "error",
    "--allow-origin",
    "http://a.example",
    "--allow-origin",
    "http://b.example:3000",
    "--insecure-no-keys",
    "--usage",
    "usage",
    "--device",
    "cpu",
    "--kv-tokens",
    "4096",
    "--device-memory",
    "2GiB",
    "--max-model-wait",
    "2.5",
    "--no-prefix-cache",
]
Started = list[tuple[ServeConfig, Any, int, dict[str, Any]]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """What was to be served."""
    found: Started = []

    def start(config: Any, user: Any, port: int, **more: Any) -> None:
        found.append((config, user, port, {name: more[name] for name in ("host", "ingresses")}))

    monkeypatch.setattr("serve_app.serving.run.run", start)
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "registry" / "fam").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write(place: Path, text: str) -> str:
    (place / "serve.yaml").write_text(text)
    return str(place / "serve.yaml")


def test_every_option_is_a_key_of_the_file() -> None:
    options = {one.name for one in TREE["serve",].params} - {"config", "help"}
    assert options <= set(ServeFile.keys_of_file())
    assert len(options) > 20


def test_a_file_says_what_options_say(place: Path, started: Started) -> None:
    assert run(["serve", "--config", _write(place, FILE)]) == 0
    assert run(["serve", *OPTIONS]) == 0
    by_file, by_options = started
    paths = {name: str(place / name) for name in ("registry", "usage")}
    assert by_file == (by_options[0].model_copy(update=paths), *by_options[1:])
    assert by_file[0].engine.device_memory == 2 << 30


def test_options_replace_values_of_the_file_lists_as_a_whole(place: Path, started: Started) -> None:
    other = ["--port", "9000", "--prefix-cache", "--allow-origin", "*", "--drain", "1"]
    assert run(["serve", "--config", _write(place, FILE), *other]) == 0
    [(config, _, port, _)] = started
    assert (port, config.allow_origin, config.drain_s) == (9000, ("*",), 1)
    assert config.engine == EngineConfig(
        device="cpu", kv_tokens=4096, device_memory=2 << 30, max_model_wait_s=2.5
    )


def test_a_file_may_set_what_has_no_option(place: Path, started: Started) -> None:
    text = "family: fam\nregistry: registry\nkeep_alive_s: 3\nlimits: {body_bytes: 1000}\n"
    assert run(["serve", "--config", _write(place, text)]) == 0
    [(config, user, port, _)] = started
    assert (config.keep_alive_s, config.limits.body_bytes) == (3, 1000)
    assert (user.channel, port) == ("stable", 8000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("- a", "line 1: it is not a map"),
        ("port: 1\nport: 2", "line 2: port is given twice"),
        ("family: a\nport: 99999", "line 2: port: Input should be less than or equal to 65535"),
        ("family: a\nfamliy: b", "line 2: famliy: there is no such key; there are registry, "),
        ("family: a\n\nkv_tokens: 2k", "line 3: kv_tokens: '2k' is not a whole number"),
        ("limits:\n  body_bytes: 0", "line 2: limits.body_bytes: Input should be greater than"),
        ("limits:\n  n: 3\n  body: 0", "line 3: limits.body: there is no such key"),
        ("allow_origin: [a.example]", "line 1: allow_origin.0: 'a.example' is not an origin"),
        ("allow_origin: a", "line 1: allow_origin: it is not a list"),
        ("channel: a/b", "line 1: channel: 'a/b' is not a name"),
        ("drain_s:", "line 1: drain_s: it has no value"),
        ("engine: {device: cpu}", "line 1: engine: there is no such key"),
        ("keys: k\ninsecure_no_keys: true", "give either keys or insecure_no_keys, not both"),
        ("{", "it is neither YAML nor JSON"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_its_name_and_the_key(
    text: str, words: str, place: Path, started: Started, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _write(place, text)
    assert run(["serve", "--family", "fam", "--registry", "registry", "--config", file]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: config {file}: ")
    assert words in shown
    assert shown.count("\n") == 1
    assert started == []


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--drain", "inf", "should be a finite number"), ("--keys", "", "at least 1 character")],
)
def test_an_option_that_says_what_cannot_be_is_wrong_use(
    option: str,
    value: str,
    words: str,
    place: Path,
    started: Started,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["serve", "--family", "fam", "--registry", "registry", option, value]) == 2
    shown = capsys.readouterr().err
    assert f"error: Invalid value for '{option}': " in shown
    assert words in shown
    assert started == []


def test_a_device_that_is_not_there_is_one_line_before_anything_starts(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["--family", "fam", "--registry", "registry", "--channel", "beta", "--device", "cuda"]
    assert run(["serve", *words]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1] == "error: device: 'cuda', and there is no such device here"
    assert len(shown) == 2
    assert shown[0] == "channel 'beta' has no release yet"


def test_memory_is_planned_as_the_file_says(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[EngineConfig] = []
    monkeypatch.setattr("serve_app.cli.serving._release_of", lambda *_: "r1")
    monkeypatch.setattr("consolidation.release.ReleaseReader", lambda *_: None)

    def plan(_: object, engine: EngineConfig) -> None:
        planned.append(engine)
        raise DoesNotFit("no", needed=2, available=1)

    monkeypatch.setattr("serve_app.engine.memory.plan_memory", plan)
    assert run(["plan-memory", "--config", _write(place, FILE)]) == 2
    assert [(engine.kv_tokens, engine.prefix_cache) for engine in planned] == [(4096, False)]


def test_a_recipe_and_a_file_of_settings_do_not_go_together(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "recipe.yaml").write_text("family: fam\nregistry: registry\n")
    both = ["recipe.yaml", "--consolidation", "--config", _write(place, FILE)]
    assert run(["plan-memory", *both]) == 2
    assert "give either RECIPE or --config, not both" in capsys.readouterr().err

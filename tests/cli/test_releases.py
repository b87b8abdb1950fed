"""Commands that look at releases and move channels."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from consolidation.release import SCHEMA_VERSION, Part, Registry
from consolidation.release.manifest import release_id
from serve_app.cli.main import run
from tests.text.tokenizers import byte_level, writing

Call = Callable[..., tuple[int, str, str]]
Publish = Callable[[str], str]


def test_releases_are_listed_with_their_models_and_channels(
    call: Call, publish: Publish, registry: Registry
) -> None:
    first, second = publish("one"), publish("two")
    registry.move_channel("stable", second)
    code, out, err = call("releases")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert "one" in rows[first]
    assert "stable" not in rows[first]
    assert "two" in rows[second]
    assert "stable" in rows[second]
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize("command", ["releases", "inspect"])
def test_who_mistypes_a_family_is_told_which_there_are(
    command: str, publish: Publish, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    publish("one")
    (Path(registry.url) / "notes").mkdir()
    run([command, "--family", "tniy", "--registry", registry.url])
    captured = capsys.readouterr()
    words = f"no releases of family 'tniy' in {registry.url}; there are some of tiny\n"
    assert (captured.out + captured.err).removeprefix("error: ") == words


def test_json_is_one_object_on_stdout_and_nothing_else(call: Call, publish: Publish) -> None:
    release = publish("one")
    code, out, err = call("releases", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["releases"][0]["id"] == release
    code, out, err = call("inspect", release, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert shown["release"] == release
    assert shown["models"]["one"]["quality"]["kl"] == 0.25


def test_inspect_counts_residuals_with_the_experts(
    call: Call, publish: Publish, registry: Registry
) -> None:
    plain = registry.read_manifest(publish("one"))
    slot = plain.layers[0].slots[0]
    residual = Part(digest=slot.digest, bytes=slot.bytes, format="packed-3-2")
    layer = plain.layers[0].model_copy(update={"residuals": (residual, residual)})
    release = registry.publish(plain.model_copy(update={"layers": (layer,)}))
    shown = json.loads(call("inspect", release, "--json")[1])
    assert shown["layers"][0]["residuals"] == 2
    assert shown["layers"][0]["formats"] == ["dense", "packed-3-2"]
    assert shown["layers"][0]["bytes"] == 3 * slot.bytes
    assert shown["expert_device_bytes"] == 2 * 3 * 4 + (2 * 1 + 2 * 1 + 2 * 2 * 2)
    assert "2 experts in 1 slots and 2 residuals of 1 layers" in call("inspect", release)[1]


def test_inspect_names_the_matrices_of_parts(
    call: Call, publish: Publish, registry: Registry
) -> None:
    plain = registry.read_manifest(publish("one"))
    (name,) = plain.layers[0].shape.matrices
    slot = plain.layers[0].slots[0].model_copy(update={"matrices": (name,)})
    layer = plain.layers[0].model_copy(update={"slots": (slot,)})
    release = registry.publish(plain.model_copy(update={"layers": (layer,)}))
    shown = json.loads(call("inspect", release, "--json")[1])
    assert shown["layers"][0]["formats"] == [f"dense@{name}"]


def test_inspect_says_by_what_answers_are_parsed(
    call: Call, publish: Publish, registry: Registry, tmp_path: Path
) -> None:
    made = registry.read_manifest(publish("one"))
    models = dict(made.models)
    for name, inner in (("tools", writing("hermes")), ("words", byte_level())):
        inner.save_pretrained(tmp_path / name)
        files = {
            file.name: registry.write_blob(file.read_bytes(), suffix="bin")
            for file in (tmp_path / name).iterdir()
        }
        models[name] = made.models["one"].model_copy(update={"tokenizer_files": files})
    quality = dict.fromkeys(models, made.quality["one"])
    release = registry.publish(made.model_copy(update={"models": models, "quality": quality}))
    shown = json.loads(call("inspect", release, "--json")[1])["models"]
    found = {name: model["response_template"] for name, model in shown.items()}
    assert found == {"one": "unreadable", "tools": "hermes", "words": None}
    assert "hermes: tools; plain: words; unreadable: one" in call("inspect", release)[1]


def test_no_releases_is_an_answer_and_not_an_error(call: Call) -> None:
    assert call("releases", "--json")[:2] == (
        0,
        '{\n  "family": "tiny",\n  "releases": [],\n  "canaries": {}\n}\n',
    )


def test_inspect_shows_the_stable_release_unless_told_otherwise(
    call: Call, publish: Publish, registry: Registry
) -> None:
    first, second = publish("one"), publish("two")
    assert second in call("inspect")[1]
    registry.move_channel("stable", first)
    assert first in call("inspect")[1]
    assert second in call("inspect", second[:15])[1]
    assert first in call("inspect", "stable")[1]


@pytest.mark.parametrize("wanted", ["feedfeedfeedfeed", "../../etc", "stable"])
def test_an_unknown_release_is_refused_by_name(call: Call, publish: Publish, wanted: str) -> None:
    publish("one")
    code, out, err = call("inspect", wanted)
    assert (code, out) == (2, "")
    assert wanted in err
    assert "Traceback" not in err


def test_a_beginning_of_two_ids_is_refused_with_both(call: Call, publish: Publish) -> None:
    first, second = publish("one"), publish("two")
    code, _, err = call("inspect", "")
    assert code == 2
    assert first in err
    assert second in err


def test_promote_and_rollback_move_a_channel_there_and_back(
    call: Call, publish: Publish, registry: Registry
) -> None:
    first, second = publish("one"), publish("two")
    assert call("promote", first, "--channel", "canary")[0] == 0
    assert call("promote", second, "--channel", "canary")[0] == 0
    code, out, _ = call("rollback", "--channel", "canary")
    assert code == 0
    assert f"{second} → {first}" in out
    moved = registry.channel("canary")
    assert moved is not None
    assert (moved.release, moved.previous) == (first, second)


def test_the_channel_that_is_moved_is_stable_unless_another_is_named(
    call: Call, publish: Publish, registry: Registry
) -> None:
    for release in (publish("one"), publish("two")):
        code, out, _ = call("promote", release)
        assert code == 0
        assert out.endswith(f" → {release}\n")
    code, out, _ = call("rollback")
    assert code == 0
    assert out.startswith("channel stable: ")
    assert list(registry.channels()) == ["stable"]


def test_a_channel_without_a_past_is_not_rolled_back(call: Call, publish: Publish) -> None:
    code, _, err = call("rollback", "--channel", "canary")
    assert code == 2
    assert "canary" in err
    call("promote", publish("one"), "--channel", "canary")
    assert call("rollback", "--channel", "canary")[0] == 2


def test_an_altered_manifest_is_a_failure_that_names_the_file(
    call: Call, publish: Publish, registry: Registry
) -> None:
    release = publish("one")
    path = f"releases/{release}/manifest.json"
    registry.storage.write(path, b"{}")
    code, out, err = call("inspect", release)
    assert (code, out) == (1, "")
    assert path in err
    assert "Traceback" not in err
    code, out, _ = call("releases")
    assert code == 0
    row, problem = (line for line in out.splitlines() if line.startswith(release))
    assert "cannot be read" in row
    assert path in problem
    assert "altered" in problem


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_release_of_a_newer_program_is_refused(
    command: str, call: Call, registry: Registry
) -> None:
    newer = SCHEMA_VERSION + 1
    data = b'{"schema_version":%d}' % newer
    release = release_id(data)
    registry.storage.write(f"releases/{release}/manifest.json", data)
    code, out, err = call(command, release)
    assert (code, out) == (2, "")
    assert f"schema_version {newer}" in err

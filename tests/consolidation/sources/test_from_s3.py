"""Models and a registry in buckets: s3fs as users install it, and a server on this machine."""

import contextlib
import importlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from s3fs import S3FileSystem

from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.errors import ConsolidationError, Refused, RunFailed
from consolidation.release import Registry
from consolidation.release.errors import StorageFailed
from consolidation.release.storage import open_storage
from consolidation.sources import address as address_module
from consolidation.sources.address import AddressFiles
from consolidation.sources.bringing import bring
from consolidation.sources.local_sources import found_from
from consolidation.sources.model_source import read_source
from serve_app.cli.main import run
from tests.support.s3_server import S3, forget, s3_server

ADDRESS = "s3://models/team/tiny"


@pytest.fixture
def s3(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3_server(tmp_path, monkeypatch) as found:
        found.put(sharded, "models/team/tiny")
        yield found


def brought(text: str = ADDRESS) -> Checkpoint:
    files, _ = bring({"a": read_source(text, found_from(Path("/nowhere")))}, None)
    return files["a"].open()


def refusal(text: str = ADDRESS, kind: type[ConsolidationError] = Refused) -> str:
    forget()
    with pytest.raises(kind) as refused:
        brought(text)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.usefixtures("without_ray")
def test_models_and_registry_may_both_be_in_buckets(
    s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.filesystem.mkdir("registries")
    place = ["--family=f", "--registry=s3://registries/ours"]
    assert run(["consolidate", *place, f"--model=a={ADDRESS}"]) == 0
    registry = Registry("s3://registries/ours", "f")
    [release] = registry.releases()
    assert registry.read_manifest(release.id).models["a"].source.name == ADDRESS
    beside = s3.filesystem.cat(f"registries/ours/f/releases/{release.id}/recipe.yaml")
    assert yaml.safe_load(beside)["models"] == {"a": ADDRESS}
    assert run(["consolidate", "--family=f", f"--registry={tmp_path}", f"--model=a={ADDRESS}"]) == 0
    assert [one.id for one in Registry(str(tmp_path), "f").releases()] == [release.id]
    capsys.readouterr()
    assert run(["verify", *place, release.id]) == 0
    assert run(["promote", *place, release.id, "--channel=next"]) == 0
    pointer = registry.channel("next")
    assert pointer is not None
    assert pointer.release == release.id
    left = registry.write_blob(b"of no release", suffix="bin")
    blobs = registry.storage.names("blobs")
    assert run(["gc", *place, "--keep=0s", "--grace=0s"]) == 0
    assert registry.storage.names("blobs") == [n for n in blobs if n != f"{left.digest}.bin"]
    assert run(["verify", *place, release.id]) == 0


def test_a_copy_that_was_stopped_goes_on_inside_the_file(
    s3: S3, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address_module, "PIECE_BYTES", 8192)
    asked: list[tuple[str, int]] = []
    stops = [12]
    read = AddressFiles.read

    def counted(self: AddressFiles, name: str, start: int, end: int) -> bytes:
        if stops == [len(asked)]:
            raise KeyboardInterrupt
        if end - start <= 8192:  # a header is read at once
            asked.append((name, start))
        return read(self, name, start, end)

    monkeypatch.setattr(AddressFiles, "read", counted)
    with pytest.raises(KeyboardInterrupt):
        brought()
    stops.clear()
    found = brought()
    assert found.num_bytes == open_checkpoint(sharded).num_bytes
    assert len(asked) == len(set(asked)) > 12
    for path in sharded.glob("model-0*"):
        assert (found.directory / path.name).read_bytes() == path.read_bytes()


def test_a_changed_object_is_another_version_and_folder_markers_are_no_files(s3: S3) -> None:
    s3.filesystem.pipe_file("models/team/tiny/", b"")
    first = brought()
    s3.filesystem.pipe_file("models/team/tiny/generation_config.json", b'{"do_sample": true}')
    second = brought()
    assert second.generation_config["do_sample"]
    assert first.directory != second.directory


def test_what_is_wrong_with_a_bucket_is_one_line(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal("s3://models/team/none") == "there is nothing at s3://models/team/none"
    assert refusal("s3://none/tiny") == (
        "there is nothing at s3://none/tiny (The specified bucket does not exist)"
    )
    assert refusal(f"{ADDRESS}/config.json").endswith(
        "config.json is a file: give the directory that it lies in"
    )
    assert 'Invalid bucket name "No!"' in refusal("s3://No!/tiny")
    with monkeypatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", "127.0.0.1:1")
        assert refusal().endswith("cannot be opened: ValueError: Invalid endpoint: 127.0.0.1:1")
    with monkeypatch.context() as patched:
        patched.setenv("AWS_PROFILE", "nobody")
        assert "The config profile (nobody) could not be found" in refusal()
    with monkeypatch.context() as patched:
        patched.delenv("AWS_ACCESS_KEY_ID")
        patched.delenv("AWS_SECRET_ACCESS_KEY")
        assert "give credentials as for AWS's own tools (AWS_PROFILE, or" in refusal()


def test_an_endpoint_that_nobody_answers_at_is_given_up(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(S3FileSystem, "read_timeout", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert "ReadTimeoutError: Read timeout on endpoint URL" in refusal(kind=RunFailed)
        silent.settimeout(0)
        asked = []
        with contextlib.suppress(BlockingIOError):
            while True:
                asked.append(silent.accept()[0])
        for one in asked:
            one.close()
    assert len(asked) == 2
    assert f'Could not connect to the endpoint URL: "{url}' in refusal(kind=RunFailed)


@pytest.mark.usefixtures("without_ray")
def test_a_registry_in_a_bucket_that_does_not_exist_is_refused_by_name(
    s3: S3, sharded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--family=f", "--registry=s3://mispelt/ours"]
    words = "there is nothing at s3://mispelt/ours/f (The specified bucket does not exist)"
    commands = [["releases"], ["inspect"], ["consolidate", f"--model=a={sharded}"]]
    for command, *more in commands:
        assert run([command, *place, *more]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"error: {words}"
    assert not s3.filesystem.exists("mispelt")
    assert run(["releases", "--family=f", "--registry=s3://models/ours"]) == 0
    assert "no releases of family 'f'" in capsys.readouterr().out
    assert not s3.filesystem.exists("models/ours")


def test_a_registry_does_not_make_a_bucket(s3: S3) -> None:
    with pytest.raises(StorageFailed, match="The specified bucket does not exist"):
        open_storage("s3://mispelt/registry").write("f/x", b"1")
    assert not s3.filesystem.exists("mispelt")


def test_without_s3fs_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = importlib.import_module("fsspec.registry")  # fsspec.registry is also a mapping
    monkeypatch.delitem(known._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    words = "s3://a/b needs a package that is not installed: pip install 'expertpool[s3]'"
    with pytest.raises(Refused, match="^" + words.replace("[", r"\[") + "$"):
        brought("s3://a/b")
    with pytest.raises(StorageFailed, match=words.replace("[", r"\[")):
        open_storage("s3://a/b")
    assert run(["releases", "--family=f", "--registry=s3://a/b"]) == 2
    error = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "pip install 'expertpool[s3]'" in error


def test_buckets_are_gone_with_their_server(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path, patch) as found:
            found.filesystem.mkdir("bucket")

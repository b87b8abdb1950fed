"""Models named on the hub: only what is read is brought, and what goes wrong is said in a line."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from consolidation.checkpoints.checkpoint import Checkpoint, open_checkpoint
from consolidation.errors import ConsolidationError, Refused, RunFailed
from consolidation.run.executor import Progress
from consolidation.sources.bringing import bring, pin
from consolidation.sources.local_sources import found_from
from consolidation.sources.model_source import read_source
from tests.consolidation.sources.conftest import NAME, NEEDLESS, copied, use_hub
from tests.support.hub_server import Hub, is_piece


def brought(text: str, seen: list[Progress] | None = None) -> Checkpoint:
    source = read_source(text, found_from(Path("/nowhere")))
    files, _ = bring({"a": source}, None, (seen if seen is not None else []).append)
    return files["a"].open()


def refusal(text: str, kind: type[ConsolidationError] = Refused) -> str:
    with pytest.raises(kind) as refused:
        brought(text)
    words = str(refused.value)
    assert "\n" not in words
    return words


def test_a_name_is_read_as_the_directory_is_and_called_by_name_and_commit(
    hub: Hub, sharded: Path
) -> None:
    found, wanted = brought(NAME), open_checkpoint(sharded)
    assert found.name == f"{NAME}@{hub.repositories[NAME].refs['main']}"
    assert (found.config, found.num_bytes) == (wanted.config, wanted.num_bytes)
    assert dict(found.tokenizer_files()).keys() == dict(wanted.tokenizer_files()).keys()


def test_only_what_is_read_is_fetched_and_only_once(hub: Hub, sharded: Path) -> None:
    brought(NAME)
    fetched = hub.fetched()
    there = {str(path.relative_to(sharded)) for path in sharded.rglob("*") if path.is_file()}
    assert sorted(fetched) == sorted(there - set(NEEDLESS))
    brought(NAME)
    assert hub.fetched() == fetched


def test_the_progress_counts_bytes_of_weights_up_to_all_of_them(hub: Hub, sharded: Path) -> None:
    seen: list[Progress] = []
    brought(NAME, seen)
    shards = [path.stat().st_size for path in sharded.glob("model-0*.safetensors")]
    assert len(shards) > 2
    assert {(one.stage, one.noun, one.total) for one in seen} == {("fetch", "files", len(shards))}
    done = [one.num_bytes[0] for one in seen if one.num_bytes]
    assert done == sorted(done)
    assert seen[0].num_bytes == (0, sum(shards), 0)
    assert seen[-1] == Progress(
        "fetch", len(shards), len(shards), noun="files", num_bytes=(sum(shards), sum(shards), 0)
    )
    again: list[Progress] = []
    brought(NAME, again)
    assert again == []


def test_a_connection_that_breaks_goes_on_where_it_broke(
    hub: Hub, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    hub.cut_after = 20_000
    seen: list[Progress] = []
    found = brought(NAME, seen)
    assert [at for _, _, at in hub.asked if at and not is_piece(at)] == ["bytes=16384-"]
    assert seen[-1].done == seen[-1].total
    for name in ("model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"):
        assert (found.directory / name).read_bytes() == (sharded / name).read_bytes()


def test_what_was_fetched_before_a_failure_is_not_fetched_again(hub: Hub, cache: Path) -> None:
    def stop(now: Progress) -> None:
        if now.done >= 2:
            raise KeyboardInterrupt

    source = read_source(NAME, found_from(Path("/nowhere")))
    with pytest.raises(KeyboardInterrupt):
        bring({"a": source}, None, stop)
    before = len(hub.fetched())
    ended = {path.name for path in cache.rglob("model-0*") if path.exists()}
    assert len(ended) >= 2
    seen: list[Progress] = []
    brought(NAME, seen)
    fetched = hub.fetched()[before:]
    assert not ended & set(fetched)
    # Others may have ended too while the first two were told: then there is nothing to tell.
    found = [now.num_bytes[2] for now in seen if now.num_bytes is not None]
    assert bool(found) == bool(fetched)
    assert all(already > 0 for already in found)


def test_files_that_a_new_commit_did_not_change_are_not_fetched_again(
    hub: Hub, sharded: Path, tmp_path: Path
) -> None:
    brought(NAME)
    before = len(hub.fetched())
    newer = copied(sharded, tmp_path / "newer")
    (newer / "generation_config.json").write_text('{"do_sample": true}')
    commit = hub.put(NAME, newer)
    found = brought(NAME)
    assert (found.name, found.generation_config["do_sample"]) == (f"{NAME}@{commit}", True)
    assert hub.fetched()[before:] == ["generation_config.json"]


def test_a_revision_is_pinned_to_its_commit_before_anything_is_fetched(
    hub: Hub, sharded: Path, tmp_path: Path
) -> None:
    newer = copied(sharded, tmp_path / "newer")
    commits = hub.put(NAME, newer, branch="v2"), hub.repositories[NAME].refs["main"]
    sources = {
        name: read_source(text, found_from(Path("/nowhere")))
        for name, text in (("a", f"{NAME}@v2"), ("b", NAME))
    }
    pinned, base = pin(sources, sources["b"])
    assert [pinned["a"].revision, pinned["b"].revision] == list(commits)
    assert base == pinned["b"]
    assert hub.fetched() == []
    hub.put(NAME, sharded, branch="v2")
    files, _ = bring(pinned, None)
    assert [files[name].directory.name for name in "ab"] == list(commits)


def test_without_the_hub_what_is_in_the_cache_is_read(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = brought(NAME).name
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert brought(NAME).name == name
    assert len(hub.asked) == asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    use_hub("http://127.0.0.1:1", monkeypatch)
    assert brought(NAME).name == name
    use_hub(hub.url, monkeypatch)
    hub.status = 503
    assert brought(NAME).name == name


@pytest.mark.parametrize("revision", ["", "@v1.0", f"@{'c' * 40}"])
def test_a_cache_that_others_have_laid_out_is_read_offline(
    revision: str, sharded: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "c" * 40
    place = cache / "models--org--tiny"
    copied(sharded, place / "snapshots" / commit)
    (place / "refs").mkdir()
    for ref in ("main", "v1.0"):
        (place / "refs" / ref).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert brought(NAME + revision).name == f"{NAME}@{commit}"


def test_what_lacks_in_the_cache_is_named_offline(
    sharded: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    words = refusal(NAME)
    assert words == (
        f"'{NAME}' is not a directory, HF_HUB_OFFLINE is set, "
        f"and {NAME} is not in the cache {cache}"
    )
    assert f"{NAME}@v9 is not in the cache" in refusal(f"{NAME}@v9")
    commit = "c" * 40
    assert f"{NAME}@{commit} is not in the cache" in refusal(f"{NAME}@{commit}")
    directory = copied(sharded, cache / "models--org--tiny" / "snapshots" / commit)
    shard = sorted(directory.glob("model-0*"))[1].name
    (directory / shard).unlink()
    assert f"lacks {shard}, and the hub cannot be asked for it" in refusal(f"{NAME}@{commit}")


def test_what_the_hub_does_not_have_is_refused_by_name(hub: Hub) -> None:
    assert refusal("org/none") == (
        f"'org/none' is not a directory, and {hub.url} shows no repository of that name: "
        "if it is private, log in with `hf auth login`, or set HF_TOKEN"
    )
    assert refusal(f"{NAME}@v9") == f"{NAME} has no branch, tag or commit 'v9' on {hub.url}"
    commit = "d" * 40
    assert (
        refusal(f"{NAME}@{commit}")
        == f"{NAME} has no branch, tag or commit '{commit}' on {hub.url}"
    )


def test_private_and_gated_repositories_say_what_to_do(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[NAME].is_gated = True
    assert refusal(NAME) == (
        f"{NAME} is gated: ask for access at {hub.url}/{NAME}, "
        "then log in with `hf auth login`, or set HF_TOKEN"
    )
    hub.repositories[NAME].is_gated = False
    hub.repositories[NAME].token = "hf_secret"
    assert "if it is private, log in" in refusal(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "if it is private, log in" in refusal(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert brought(NAME).name.startswith(NAME)


def test_a_hub_that_cannot_be_reached_is_a_failure_that_names_it(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.status = 503
    assert f"{hub.url} cannot be reached (it answers 503)" in refusal(NAME, RunFailed)
    hub.status = 429
    assert refusal(NAME, RunFailed) == f"cannot read {NAME}: {hub.url} answers 429"
    use_hub("http://127.0.0.1:1", monkeypatch)
    words = refusal(NAME, RunFailed)
    assert words.startswith(f"'{NAME}' is not a directory, http://127.0.0.1:1 cannot be reached (")
    assert words.endswith(f"and {NAME} is not in the cache {cache}")


def test_too_small_a_disk_is_refused_with_numbers_before_weights_are_fetched(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=60_000))
    words = refusal(NAME)
    assert words == f"0.00 GiB are to be fetched into {cache}, and 0.00 GiB are free there"
    assert not any("model-0" in name for name in hub.fetched())


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (["pytorch_model.bin", "config.json"], "but pytorch_model.bin: convert it with"),
        (["model.gguf", "config.json"], "but model.gguf: GGUF files are"),
        (["README.md", "config.json"], "has neither model.safetensors nor"),
        (["README.md"], "it has no config.json"),
        (["adapter_config.json", "adapter_model.safetensors"], "holds an adapter"),
    ],
)
def test_a_repository_without_weights_that_are_read_is_refused_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, left: list[str], words: str
) -> None:
    (tmp_path / "other").mkdir()
    for name in left:
        (tmp_path / "other" / name).write_text("{}")
    hub.put("org/other", tmp_path / "other")
    with pytest.raises(Refused, match=words):
        brought("org/other")
    assert hub.fetched() == []

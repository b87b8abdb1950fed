"""What a directory may hold, and how each kind that is not read is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from consolidation.checkpoints.checkpoint import open_checkpoint
from consolidation.errors import Refused
from tests.support.checkpoints import write_checkpoint

SINGLE = "model.safetensors"


def as_pickle(directory: Path) -> None:
    torch.save(load_file(directory / SINGLE), directory / "pytorch_model.bin")
    (directory / SINGLE).unlink()


def as_pickle_alone(directory: Path) -> None:
    as_pickle(directory)
    (directory / "config.json").unlink()


def renamed(name: str) -> Callable[[Path], None]:
    def rename(directory: Path) -> None:
        (directory / SINGLE).rename(directory / name)

    return rename


def with_file(name: str, *, alone: bool) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        (directory / name).write_text("{}")
        if alone:
            (directory / SINGLE).unlink()

    return write


def as_broken_link(directory: Path) -> None:
    (directory / SINGLE).unlink()
    (directory / SINGLE).symlink_to(directory / "gone")


def as_pointer(directory: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (directory / SINGLE).write_text(pointer)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (as_pickle, "has neither .* but pytorch_model.bin: convert it with\n  python -c"),
        (
            as_pickle_alone,
            "bin: put its model's config.json beside it, which is missing",
        ),
        (renamed("pytorch_model-00001-of-00002.bin"), "pytorch_model-00001-of-00002.bin: convert"),
        (renamed("consolidated.00.pth"), "consolidated.00.pth: .* script of its architecture"),
        (renamed("consolidated.safetensors"), "consolidated.safetensors: .* script of"),
        (renamed("m-Q4_K_M.gguf"), "m-Q4_K_M.gguf: GGUF files are .* take the checkpoint"),
        (renamed("Model.safetensors"), "Model.safetensors: its tensors must be in model.safe"),
        (renamed("model-00001-of-00001.safetensors"), "or in shards beside .*index.json"),
        (with_file("adapter_config.json", alone=True), "adapter .* not the weights .*NAME=BASE\\+"),
        (with_file("adapter_config.json", alone=False), "whole weights and an adapter .* which is"),
        (with_file("adapter_model.safetensors", alone=False), "adapter_model.safetensors.*which"),
        (renamed("MODEL.SAFETENSORS"), "MODEL.SAFETENSORS: its tensors must be in model.safe"),
        (as_broken_link, "model.safetensors is a link to a file that is not there: fetch it"),
        (as_pointer, "model.safetensors is a Git LFS pointer: .* git lfs pull"),
        (lambda directory: (directory / SINGLE).write_bytes(b""), "model.safetensors is truncated"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_do(
    tmp_path: Path, edit: Callable[[Path], object], words: str
) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False)
    edit(tmp_path)
    with pytest.raises(Refused) as caught:
        open_checkpoint(tmp_path)
    assert re.search(words, str(caught.value), re.DOTALL), str(caught.value)


def test_a_directory_without_a_checkpoint_says_what_to_give_instead(tmp_path: Path) -> None:
    there = tmp_path / "models"
    there.mkdir()
    wanted = f"{there} is empty. Give what save_pretrained wrote, or ORG/NAME on the hub"
    with pytest.raises(Refused, match=f"^{wanted}$"):
        open_checkpoint(there)
    (there / "README.md").write_text("")
    with pytest.raises(Refused, match=r"it has neither config\.json nor weights\. Give what"):
        open_checkpoint(there)
    for name in ("news", "code"):
        write_checkpoint(there / name, "mixtral", tokenizer=False)
    with pytest.raises(Refused, match=f"Give one that lies in it, such as {there / 'code'}$"):
        open_checkpoint(there)


def test_an_adapter_without_a_config_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(Refused, match="holds an adapter"):
        open_checkpoint(tmp_path)


def test_the_command_that_converts_gives_what_is_read(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "m", "mixtral", tokenizer=False)
    expected = load_file(path / SINGLE)
    as_pickle(path)
    with pytest.raises(Refused) as caught:
        open_checkpoint(path)
    code = str(caught.value).partition('python -c "')[2].rpartition('"')[0]
    exec(code, {})
    assert load_file(tmp_path / "m-safetensors" / SINGLE).keys() == expected.keys()
    assert open_checkpoint(tmp_path / "m-safetensors").dtype == "float32"


def test_files_that_are_not_needed_are_passed_over(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False)
    expected = [part.name for part in open_checkpoint(tmp_path).backbone]
    (tmp_path / "generation_config.json").unlink()
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.gguf"):
        (tmp_path / name).write_bytes(b"\x80")
    (tmp_path / "original").mkdir()
    assert [part.name for part in open_checkpoint(tmp_path).backbone] == expected


def change_index(directory: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    edit(content["weight_map"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda m: m.update({"x": "model-9.safetensors"}), r"model-9\.safetensors"),
        (lambda m: m.pop("model.norm.weight"), r"holds model\.norm\.weight, which .* not say"),
        (lambda m: m.update({"x": "../evil.safetensors"}), "outside its directory"),
        (
            lambda m: m.update({"x": m["model.norm.weight"]}),
            r"lacks x, which model\.safetensors\.index\.json says",
        ),
    ],
)
def test_an_index_that_is_wrong_is_refused_with_the_shard(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    write_checkpoint(tmp_path, "mixtral", tokenizer=False, max_shard_size="40KB")
    change_index(tmp_path, edit)
    with pytest.raises(Refused, match=words):
        open_checkpoint(tmp_path)


def test_a_directory_of_a_hugging_face_cache_is_called_by_repository_and_revision(
    tmp_path: Path,
) -> None:
    commit = "f9d7c6e5b4a39281f9d7c6e5b4a39281f9d7c6e5"
    repository = tmp_path / "models--org--moe--chat"
    blobs = write_checkpoint(repository / "blobs", "mixtral", tokenizer=False)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(path)
    assert open_checkpoint(snapshot).name == f"org/moe--chat@{commit}"
    (tmp_path / "chat").symlink_to(snapshot)
    assert open_checkpoint(tmp_path / "chat").name == f"org/moe--chat@{commit}"
    assert open_checkpoint(blobs).name == "blobs"

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from consolidation.evaluation.verify import verify
from consolidation.release import (
    Blob,
    ChannelMoved,
    Damaged,
    Layer,
    Manifest,
    Model,
    NewerSchema,
    NotFound,
    Part,
    Registry,
    ReleaseError,
    ReleaseReader,
    Source,
    expert_bytes,
)
from consolidation.release.manifest import release_id
from consolidation.release.tensors import encode_tensors
from representation.canonical import canonical_json


@pytest.fixture(params=["local", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    local = request.param == "local"
    return Registry(str(tmp_path) if local else f"memory://{tmp_path.name}", "fam")


def make_release(registry: Registry, value: float = 1.0) -> Manifest:
    blobs = [
        registry.write_blob(encode_tensors({"up": torch.full((2, 3), value + i)})) for i in range(2)
    ]
    slots = tuple(Part(digest=blob.digest, bytes=blob.bytes) for blob in blobs)
    backbone = registry.write_backbone({"embed": torch.ones(4, 3) * value})
    tokenizer = registry.write_blob(b"{}", suffix="bin")
    model = Model(
        config={"model_type": "x"},
        generation_config={},
        tokenizer_files={"tokenizer.json": tokenizer},
        backbone=(backbone,),
        expert_map=((0, 1, 1),),
        source=Source(name="a", digest="d"),
    )
    layers = (Layer(module="layers.0.experts", parameters={"up": (2, 3)}, slots=slots),)
    return Manifest(
        family="fam",
        architecture="XForCausalLM",
        dtype="float32",
        layers=layers,
        models={"a": model},
        expert_bytes_before=100,
        expert_bytes_after=expert_bytes(layers, {"a": model}),
        expert_bytes_one_model=100,
        quality={},
        provenance={},
    )


def blob_file(registry: Registry, blob: Blob, suffix: str = "safetensors") -> str:
    return f"blobs/{blob.digest}.{suffix}"


def test_a_published_release_is_read_back_whole(registry: Registry, tmp_path: Path) -> None:
    manifest = make_release(registry)
    release = registry.publish(manifest)
    reader = ReleaseReader(registry, release)
    assert reader.manifest == manifest
    assert reader.id == release == manifest.id
    assert torch.equal(reader.read_slot(0, 1)["up"], torch.full((2, 3), 2.0))
    assert [name for name, _ in reader.read_backbone("a")] == ["embed"]
    reader.write_tokenizer("a", tmp_path / "tok")
    assert (tmp_path / "tok/tokenizer.json").read_bytes() == b"{}"
    assert json.loads((tmp_path / "tok/config.json").read_text()) == {"model_type": "x"}


def test_publishing_twice_changes_nothing(registry: Registry) -> None:
    manifest = make_release(registry)
    first = registry.publish(manifest)
    at = registry.published_at(first)
    assert registry.publish(manifest) == first
    assert registry.published_at(first) == at
    assert [summary.id for summary in registry.releases()] == [first]


def test_a_blob_is_written_once_and_repaired_when_altered(registry: Registry) -> None:
    blob = registry.write_blob(b"abc", suffix="bin")
    registry.storage.write(blob_file(registry, blob, "bin"), b"abd")
    assert registry.write_blob(b"abc", suffix="bin") == blob
    assert registry.read_bytes(blob) == b"abc"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "bytes instead of"),
        (lambda data: data[:-1] + b"\x01", "was altered"),
        (lambda _: None, "is missing"),
    ],
)
def test_a_damaged_blob_is_named(
    registry: Registry, damage: Callable[[bytes], bytes | None], message: str
) -> None:
    manifest = make_release(registry)
    reader = ReleaseReader(registry, registry.publish(manifest))
    blobs = (manifest.layers[0].slots[0], manifest.models["a"].backbone[0])
    reads: tuple[Callable[[], object], ...] = (
        lambda: reader.read_slot(0, 0),
        lambda: list(reader.read_backbone("a")),
    )
    for blob, read in zip(blobs, reads, strict=True):
        path = blob_file(registry, blob)
        damaged = damage(registry.storage.read(path) or b"")
        if damaged is None:
            _delete(registry, path)
        else:
            registry.storage.write(path, damaged)
        with pytest.raises(Damaged, match=message) as caught:
            read()
        assert path.rsplit("/", 1)[-1] in str(caught.value)


def _delete(registry: Registry, path: str) -> None:
    full = Path(registry.storage.name(path))
    if registry.url.startswith("memory"):
        registry.storage.remove(path)
    else:
        full.unlink()


def test_bytes_that_are_no_tensors_are_damage(registry: Registry) -> None:
    blob = registry.write_blob(b"not tensors at all")
    with pytest.raises(Damaged, match="not a safetensors file"):
        registry.read_tensors(blob)


def test_tensors_that_were_read_stay_when_their_file_changes_in_place(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path), "fam")
    tensors = {"up": torch.arange(6.0).view(2, 3), "scale": torch.tensor(2.0)}
    blob = registry.write_blob(encode_tensors(tensors))
    found = registry.read_tensors(blob)
    file = Path(registry.storage.name(blob_file(registry, blob)))
    with file.open("r+b") as opened:
        opened.write(bytes(blob.bytes))
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(Damaged, match="was altered"):
        registry.read_tensors(blob)


def test_a_release_without_all_its_blobs_is_not_published(registry: Registry) -> None:
    manifest = make_release(registry)
    _delete(registry, blob_file(registry, manifest.models["a"].backbone[0]))
    with pytest.raises(Damaged, match="missing"):
        registry.publish(manifest)
    assert registry.releases() == []


def test_a_half_written_release_is_invisible_and_named(registry: Registry) -> None:
    release = "0123456789abcdef"
    registry.storage.write(f"releases/{release}/published.json", b"{}")
    assert registry.releases() == []
    with pytest.raises(Damaged, match=r"manifest\.json is missing: the release is only half"):
        registry.read_manifest(release)


@pytest.mark.parametrize("cut", [10, None])
def test_a_truncated_or_altered_manifest_is_named(registry: Registry, cut: int | None) -> None:
    release = registry.publish(make_release(registry))
    path = f"releases/{release}/manifest.json"
    data = registry.storage.read(path) or b""
    registry.storage.write(path, data[:cut] if cut else data.replace(b"fam", b"fan"))
    with pytest.raises(Damaged, match=r"manifest\.json was altered"):
        registry.read_manifest(release)
    assert "altered" in (registry.releases()[0].problem or "")


def publish_raw(registry: Registry, content: object) -> str:
    data = canonical_json(content)
    release = release_id(data)
    registry.storage.write(f"releases/{release}/manifest.json", data)
    return release


def test_a_newer_schema_is_refused(registry: Registry) -> None:
    content = {**json.loads(make_release(registry).to_bytes()), "schema_version": 4, "new": 1}
    with pytest.raises(NewerSchema, match="schema_version 4"):
        registry.read_manifest(publish_raw(registry, content))


@pytest.mark.parametrize("content", [[], {"schema_version": 2}, {"a": 1}])
def test_json_that_is_no_manifest_is_damage(registry: Registry, content: object) -> None:
    with pytest.raises(Damaged, match="is not a manifest"):
        registry.read_manifest(publish_raw(registry, content))


@pytest.mark.parametrize("change", [{"expert_map": [[0, 1, 2]]}, {"expert_map": []}])
def test_a_map_that_leaves_the_pool_is_damage(
    registry: Registry, change: dict[str, object]
) -> None:
    content = json.loads(make_release(registry).to_bytes())
    content["models"]["a"] |= change
    with pytest.raises(Damaged, match="model 'a'"):
        registry.read_manifest(publish_raw(registry, content))


def test_a_tokenizer_file_outside_its_directory_is_damage(registry: Registry) -> None:
    content = json.loads(make_release(registry).to_bytes())
    files = content["models"]["a"]["tokenizer_files"]
    files["../evil"] = files.pop("tokenizer.json")
    with pytest.raises(Damaged, match="outside its directory"):
        registry.read_manifest(publish_raw(registry, content))


@pytest.mark.parametrize("release", ["0123456789abcdef", "nonsense", "../../x"])
def test_an_unknown_release_is_not_found(registry: Registry, release: str) -> None:
    with pytest.raises(NotFound):
        registry.read_manifest(release)


def test_a_channel_remembers_where_it_pointed(registry: Registry) -> None:
    first = registry.publish(make_release(registry))
    second = registry.publish(make_release(registry, 5.0))
    assert registry.channel("stable") is None
    registry.move_channel("stable", first, expected=None)
    moved = registry.move_channel("stable", second, expected=first)
    assert (moved.release, moved.previous) == (second, first)
    assert registry.channel("stable") == moved
    assert registry.move_channel("stable", second) == moved
    with pytest.raises(ChannelMoved, match="not at nothing"):
        registry.move_channel("stable", first, expected=None)
    with pytest.raises(NotFound):
        registry.move_channel("stable", "f" * 16)
    assert registry.channels() == {"stable": moved}
    assert [s.channels for s in registry.releases() if s.id == second] == [("stable",)]


def test_a_damaged_channel_is_named(registry: Registry) -> None:
    registry.storage.write("channels/stable.json", b"{}")
    with pytest.raises(Damaged, match=r"stable\.json"):
        registry.channel("stable")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_names_stay_inside_the_registry(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReleaseError):
        Registry(str(tmp_path), name)
    with pytest.raises(ReleaseError):
        Registry(str(tmp_path), "fam").channel(name)


def test_an_unknown_protocol_is_a_clear_error() -> None:
    with pytest.raises(ReleaseError, match="cannot open nosuch://"):
        Registry("nosuch://bucket", "fam")


def test_a_registry_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReleaseError, match="cannot write"):
        Registry(str(tmp_path / "file"), "fam").write_blob(b"x")


def test_writing_leaves_no_temporary_file(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path), "fam")
    registry.publish(make_release(registry))
    assert not [path for path in tmp_path.rglob("*") if "tmp" in path.suffix]


def _move(url: str, release: str, expected: str) -> bool:
    try:
        Registry(url, "fam").move_channel("stable", release, expected=expected)
    except ChannelMoved:
        return False
    return True


def test_of_many_moves_from_one_place_exactly_one_succeeds(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path), "fam")
    releases = [registry.publish(make_release(registry, float(i))) for i in range(5)]
    registry.move_channel("stable", releases[0])
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        jobs = [(str(tmp_path), release, releases[0]) for release in releases[1:]]
        assert sum(pool.starmap(_move, jobs)) == 1


def test_a_backbone_s_file_tells_which_of_its_tensors_are_equal_to_others(
    registry: Registry,
) -> None:
    def digests(**tensors: torch.Tensor) -> dict[str, str]:
        return registry.write_backbone(tensors).tensors

    ones = digests(a=torch.ones(2, 3), b=torch.ones(2, 3), c=torch.zeros(2, 3))
    assert ones["a"] == ones["b"] != ones["c"]
    assert digests(d=torch.ones(3, 2).t())["d"] == ones["a"], "however it lies in memory"
    others = (torch.ones(3, 2), torch.ones(6), torch.ones(2, 3, dtype=torch.bfloat16))
    assert all(digests(a=other)["a"] != ones["a"] for other in others)
    assert len(digests(a=torch.tensor(1.0))["a"]) == 64
    assert digests(a=-torch.zeros(2, 3))["a"] != ones["c"], "to the bit"


def test_verify_finds_a_tensor_that_is_not_what_the_manifest_says(registry: Registry) -> None:
    manifest = make_release(registry)
    (blob,) = manifest.models["a"].backbone
    lying = blob.model_copy(update={"tensors": {"embed": "0" * 64}})
    model = manifest.models["a"].model_copy(update={"backbone": (lying,)})
    release = registry.publish(manifest.model_copy(update={"models": {"a": model}}))
    assert verify(registry, release) == [f"blob {blob.digest}: embed is not what the manifest says"]

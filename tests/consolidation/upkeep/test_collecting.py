"""A registry, on disk and elsewhere, without what nothing needs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from consolidation.errors import Refused
from consolidation.release import (
    Canary,
    Damaged,
    Layer,
    Manifest,
    Model,
    Part,
    Registry,
    ReleaseReader,
    Source,
)
from consolidation.release.tensors import encode_tensors
from consolidation.run.journal import StoredJournal
from consolidation.upkeep.collecting import find, remove

LATER = datetime.now(UTC) + timedelta(days=30)


@pytest.fixture(params=["local", "memory"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    local = request.param == "local"
    return Registry(str(tmp_path) if local else f"memory://{tmp_path.name}", "fam")


def _publish(registry: Registry, value: float) -> str:
    """A release of one slot of its own, and of a backbone that all have in common."""
    slot = registry.write_blob(encode_tensors({"up": torch.full((2, 3), value)}))
    model = Model(
        config={},
        generation_config={},
        tokenizer_files={"tokenizer.json": registry.write_blob(b"{}", suffix="bin")},
        backbone=(registry.write_backbone({"embed": torch.ones(4, 3)}),),
        expert_map=((0,),),
        source=Source(name="a", digest="d"),
    )
    part = Part(digest=slot.digest, bytes=slot.bytes)
    return registry.publish(
        Manifest(
            family="fam",
            architecture="XForCausalLM",
            dtype="float32",
            layers=(Layer(module="m", parameters={"up": (2, 3)}, slots=(part,)),),
            models={"a": model},
            expert_bytes_before=100,
            expert_bytes_after=50,
            expert_bytes_one_model=50,
            quality={},
            provenance={},
        )
    )


def _collect(registry: Registry) -> set[str]:
    """What is left of the releases."""
    remove(registry, find(registry, LATER), LATER)
    return {one.id for one in registry.releases()}


def _read_all(registry: Registry, release: str) -> None:
    reader = ReleaseReader(registry, release)
    assert reader.read_slot(0, 0)
    assert dict(reader.read_backbone("a"))


def test_what_channels_and_canaries_name_stays_whole_and_the_rest_goes(
    registry: Registry,
) -> None:
    first, before, now, canary = (_publish(registry, value) for value in (1.0, 2.0, 3.0, 4.0))
    registry.move_channel("stable", before)
    registry.move_channel("stable", now)
    registry.change_canary("stable", lambda _, at: Canary(release=canary, percent=5, at=at))
    blobs = len(registry.storage.names("blobs"))
    found = find(registry, LATER)
    assert [one.id for one in found.releases] == [first]
    assert len(registry.storage.names("blobs")) == blobs  # finding changes nothing
    assert _collect(registry) == {before, now, canary}
    for release in (before, now, canary):
        _read_all(registry, release)
    assert registry.storage.names(f"releases/{first}") == []
    assert len(registry.storage.names("blobs")) == blobs - 1
    again = find(registry, LATER)
    assert (again.releases, again.blobs) == ((), {})


def test_recent_releases_and_files_stay(registry: Registry) -> None:
    release = _publish(registry, 1.0)
    left = registry.write_blob(b"no release has this", suffix="bin")
    found = find(registry, datetime.now(UTC))
    assert ([one.id for one in found.kept], found.blobs) == ([release], {})
    assert find(registry, LATER).blobs[f"blobs/{left.digest}.bin"] == left.bytes


def test_while_a_run_has_not_ended_nothing_goes(registry: Registry) -> None:
    now = datetime.now(UTC)
    with StoredJournal(registry.storage, "d" * 8) as journal:
        with pytest.raises(Refused, match=r"work/dddddddd: a run of consolidate wrote here at 2"):
            find(registry, now)
        journal.put("scan a", 1)
    with pytest.raises(Refused, match="let it end, or wait until it has not written for 24 h"):
        find(registry, now)  # it was killed, and may go on
    assert find(registry, LATER).blobs == {}
    with StoredJournal(registry.storage, "d" * 8) as journal:
        journal.close()
    assert find(registry, now).blobs == {}


def test_a_run_that_found_nothing_leaves_nothing_that_holds_up_others(registry: Registry) -> None:
    with pytest.raises(Refused, match="no blobs"), StoredJournal(registry.storage, "d" * 8):
        raise Refused("no blobs")
    assert find(registry, datetime.now(UTC)).blobs == {}


def test_a_channel_that_moves_meanwhile_keeps_what_it_points_at(registry: Registry) -> None:
    release = _publish(registry, 1.0)
    found = find(registry, LATER)
    registry.move_channel("stable", release)
    with pytest.raises(Refused, match=f"release {release} is in use again: channel stable"):
        remove(registry, found, LATER)
    _read_all(registry, release)


def test_a_release_that_stays_must_be_readable_and_one_that_goes_need_not(
    registry: Registry,
) -> None:
    broken, good = _publish(registry, 1.0), _publish(registry, 2.0)
    registry.move_channel("stable", good)
    registry.storage.write(f"releases/{broken}/manifest.json", b"{}")
    registry.storage.write(f"releases/{'0' * len(good)}/report.html", b"half")
    assert _collect(registry) == {good}
    assert registry.storage.names("releases") == [good]
    registry.storage.write(f"releases/{good}/manifest.json", b"{}")
    with pytest.raises(Damaged, match=rf"releases/{good}/manifest\.json was altered"):
        find(registry, LATER)
    registry.storage.remove(f"releases/{good}")
    with pytest.raises(Damaged, match=f"channel stable names release {good}, which is not there"):
        find(registry, LATER)

"""The command that removes what nothing needs."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from consolidation.release import Registry

Call = Callable[..., tuple[int, str, str]]
Publish = Callable[[str], str]
ALL = ("--keep", "0s", "--grace", "0s")


def test_it_says_what_goes_and_why_the_rest_stays(
    call: Call, publish: Publish, registry: Registry
) -> None:
    first, second = publish("one"), publish("two")
    registry.move_channel("stable", second)
    code, shown, err = call("gc", "--dry-run", *ALL)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in shown.splitlines()}
    assert "would be removed" in rows[first]
    assert "kept: channel stable" in rows[second]
    assert len(registry.releases()) == 2
    code, done, err = call("gc", *ALL)
    assert (code, err) == (0, "")
    assert done.split() == shown.replace("would be removed", "removed").split()
    assert [one.id for one in registry.releases()] == [second]
    assert call("verify")[0] != 2  # what is left can still be read


def test_what_is_recent_stays_by_default(call: Call, publish: Publish, registry: Registry) -> None:
    release = publish("one")
    left = registry.write_blob(b"of no release", suffix="bin")
    code, shown, _ = call("gc")
    assert code == 0
    assert f"{release}" in shown
    assert "kept: recent" in shown
    assert registry.has_blob(left, suffix="bin")
    path = Path(registry.url) / "tiny" / "blobs" / f"{left.digest}.bin"
    os.utime(path, (0, 0))
    code, shown, _ = call("gc", "--json")
    assert json.loads(shown)["files"] == [f"blobs/{left.digest}.bin"]
    assert not path.exists()


@pytest.mark.parametrize("option", ["--keep", "--grace"])
def test_a_time_that_is_none_is_refused_before_anything_is_read(call: Call, option: str) -> None:
    code, _, err = call("gc", option, "7 days")
    assert code == 2
    assert f"Invalid value for {option}: '7 days' is not a time such as 30m, 24h or 7d" in err

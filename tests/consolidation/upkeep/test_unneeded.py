"""What stays and what goes, as a pure function of what is there."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from consolidation.release.storage import File
from consolidation.upkeep.unneeded import GRACE, KEEP, Found, Unneeded, unneeded

NOW = datetime(2027, 1, 31, tzinfo=UTC)
OLD = NOW - KEEP - timedelta(days=1)
PATHS = [f"blobs/{name}" for name in "abcdef"]


def _of(*releases: Found, ages: dict[str, timedelta] | None = None) -> Unneeded:
    at = {path: NOW - (ages or {}).get(path, GRACE) for path in PATHS}
    files = {path: File(10 + i, at[path]) for i, path in enumerate(PATHS)}
    return unneeded(releases, {}, files, NOW)


def test_a_release_stays_if_something_names_it_or_if_it_is_recent() -> None:
    named = Found("named", OLD, frozenset(), ("channel stable",))
    recent = Found("recent", NOW - KEEP + timedelta(seconds=1), frozenset())
    old = Found("old", NOW - KEEP, frozenset())
    found = _of(named, recent, old)
    assert found.releases == (old,)
    assert found.kept == (named, recent)


def test_a_file_goes_only_if_no_release_that_stays_has_it() -> None:
    stays = Found("stays", OLD, frozenset(PATHS[:2]), ("channel stable",))
    goes = Found("goes", OLD, frozenset(PATHS[1:4]))
    found = _of(stays, goes)
    assert found.blobs == dict(zip(PATHS[2:], (12, 13, 14, 15), strict=True))
    assert found.num_bytes == 12 + 13 + 14 + 15
    assert found.kept_bytes == 10 + 11


def test_a_young_file_stays_since_a_release_may_be_about_to_name_it() -> None:
    young = GRACE - timedelta(seconds=1)
    assert _of(ages={"blobs/a": young}).blobs.keys() == set(PATHS[1:])


def test_a_release_that_was_never_published_goes_after_the_grace() -> None:
    begun = {"old": NOW - GRACE, "young": NOW - GRACE + timedelta(seconds=1)}
    assert unneeded([], begun, {}, NOW).unfinished == ("old",)


@given(
    st.lists(
        st.builds(
            Found,
            st.uuids().map(str),
            st.integers(0, 20).map(lambda days: NOW - timedelta(days=days)),
            st.frozensets(st.sampled_from(PATHS)),
            st.sampled_from([(), ("channel stable",)]),
        ),
        max_size=6,
    ),
    st.dictionaries(st.sampled_from(PATHS), st.integers(0, 48).map(lambda h: timedelta(hours=h))),
)
def test_no_release_that_stays_loses_a_file_and_nothing_else_that_is_old_stays(
    releases: list[Found], ages: dict[str, timedelta]
) -> None:
    found = _of(*releases, ages=ages)
    needed = frozenset[str]().union(*(one.blobs for one in found.kept))
    assert not needed & found.blobs.keys()
    for path in PATHS:
        is_old = ages.get(path, GRACE) >= GRACE
        assert (path in found.blobs) == (path not in needed and is_old)
    assert sorted(one.id for one in releases) == sorted(
        one.id for one in (*found.kept, *found.releases)
    )

"""What `SOURCE[@REVISION][+ADAPTER]` means: paths that exist win, all else has one sense."""

from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from consolidation.sources.model_source import (
    BadSource,
    Kind,
    Location,
    ModelSource,
    NoDirectory,
    read_source,
)

Find = Callable[[str], str | None]


def there(*paths: str) -> Find:
    """What a path means where these exist, seen from /here."""

    def find(text: str) -> str | None:
        if text not in paths:
            return None
        return text if text.startswith("/") else f"/here/{text.removeprefix('./')}"

    return find


NOTHING = there()
path = st.text("ab+@/.=", min_size=1, max_size=8)
word = st.from_regex(r"[a-z0-9][a-z0-9_.]{0,3}[a-z0-9]", fullmatch=True).filter(
    lambda text: ".." not in text
)
repository = st.tuples(word, word).map("/".join)
revision = st.one_of(word, st.tuples(word, word).map("/".join), st.just("refs/pr/3"))
on_hub = st.builds(Location, st.just(Kind.HUB), repository, st.none() | revision)
address = st.builds(
    Location,
    st.just(Kind.ADDRESS),
    st.tuples(st.sampled_from(["s3://", "gs://", "filecache::s3://"]), word, word).map(
        lambda parts: f"{parts[0]}{parts[1]}/me@{parts[2]}"
    ),
)
directory = st.builds(Location, st.just(Kind.DIRECTORY), path.map(lambda text: f"/{text}"))
location = on_hub | address | directory
source = st.builds(
    lambda own, adapter: ModelSource(own.kind, own.source, own.revision, adapter),
    location,
    st.none() | location,
)


def paths_of(found: ModelSource) -> set[str]:
    both = (found, *([found.adapter] if found.adapter else []))
    return {one.source for one in both if one.kind is Kind.DIRECTORY}


@given(path)
def test_an_existing_path_is_the_source_whatever_it_holds(text: str) -> None:
    find = there(text)
    assert read_source(text, find) == ModelSource(Kind.DIRECTORY, find(text) or "")


@given(path, path)
def test_an_existing_path_before_a_plus_is_the_source_and_the_rest_an_adapter(
    own: str, adapter: str
) -> None:
    text = f"{own}+{adapter}"
    longer = [text[:at] for at, sign in enumerate(text) if sign == "+" and at > len(own)]
    find = there(own, adapter)
    assume(find(text) is None and not any(find(one) for one in longer))
    found = read_source(text, find)
    assert (found.kind, found.source) == (Kind.DIRECTORY, find(own))
    assert found.adapter == Location(Kind.DIRECTORY, find(adapter) or "")


def test_of_several_paths_before_a_plus_the_longest_is_the_source() -> None:
    find = there("./a", "./a+b", "c")
    assert str(read_source("./a+b+c", find)) == "/here/a+b+/here/c"


@given(source)
def test_what_a_source_is_written_as_means_that_source_again(wanted: ModelSource) -> None:
    find = there(*paths_of(wanted))
    beginnings = [str(wanted)[:at] for at, sign in enumerate(str(wanted)) if sign == "+"]
    own = str(ModelSource(wanted.kind, wanted.source, wanted.revision))
    if wanted.adapter is not None:
        assume(not any(find(one) for one in (str(wanted), *beginnings) if len(one) > len(own)))
    assert read_source(str(wanted), find) == wanted


@given(repository, st.none() | revision)
def test_a_name_is_on_the_hub_unless_such_a_path_exists(name: str, revision: str | None) -> None:
    text = name if revision is None else f"{name}@{revision}"
    assert read_source(text, NOTHING) == ModelSource(Kind.HUB, name, revision)
    assert read_source(text, there(text)).kind is Kind.DIRECTORY
    assert read_source(f"hf://{text}", there(text, name)) == ModelSource(Kind.HUB, name, revision)


@given(st.text("ab/+@. -:hf~=", max_size=10), st.lists(path, max_size=3))
def test_every_text_is_read_or_refused_in_words(text: str, paths: list[str]) -> None:
    found: ModelSource | str
    try:
        found = read_source(text, there(*paths))
    except BadSource as error:
        found = str(error)
    if isinstance(found, str):
        assert repr(text) in found or not text
        assert "\n" not in found
    else:
        assert found.source
        assert found.revision is None or found.kind is Kind.HUB


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no source is given"),
        ("+lora", "'+lora': no source is given"),
        ("./nowhere", "'./nowhere' is not a directory"),
        ("/a/b/c", "'/a/b/c' is not a directory"),
        ("~/x", "'~/x' is not a directory"),
        ("nowhere", "'nowhere' is not a directory, and a name on the hub is ORG/NAME"),
        ("a/b/c", "'a/b/c' is not a directory"),
        ("org/", "'org/' is not a directory, and a name on the hub is ORG/NAME"),
        ("org/a..b", "'org/a..b' is not a directory, and a name on the hub is ORG/NAME"),
        ("hf://code", "'hf://code': a name on the hub is ORG/NAME"),
        ("org/name@", "'org/name@': '' is not a branch, a tag or a commit"),
        ("org/name@a b", "'org/name@a b': 'a b' is not a branch, a tag or a commit"),
        ("./base@v1", "'./base@v1': './base' is a directory, which has no revisions"),
        ("./base+", "'./base+': no adapter is given after the +"),
        ("./base+no", "'./base+no': 'no' is not a directory, and a name on the hub is ORG/NAME"),
        ("./bas+./no", "'./bas+./no': './bas' is not a directory"),
        ("org/name@v1+cu", "'org/name@v1+cu': 'cu' is not a directory, and"),
        ("./base+x/y+z", "'./base+x/y+z': 'x/y+z' is not a directory, and"),
    ],
)
def test_what_is_no_source_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(BadSource) as refused:
        read_source(text, there("./base"))
    assert str(refused.value).startswith(words)


def test_only_what_a_directory_would_mend_is_refused_as_one() -> None:
    for text in ("./x", "x", "./base+./x"):
        with pytest.raises(NoDirectory):
            read_source(text, there("./base"))
    for text in ("./base@v1", "hf://x", "org/name@"):
        with pytest.raises(BadSource) as refused:
            read_source(text, there("./base"))
        assert not isinstance(refused.value, NoDirectory)

"""Commands that give models names, list them, and take them away."""

import json
from collections.abc import Callable

import pytest

from consolidation.release import Registry
from consolidation.release.aliases import RANGES
from serve_app.api.requests.fields import GenerationFields

Call = Callable[..., tuple[int, str, str]]
Publish = Callable[[str], str]


@pytest.fixture
def _stable(publish: Publish, registry: Registry) -> None:
    """A channel `stable` whose release has the model `one`."""
    registry.move_channel("stable", publish("one"))


@pytest.mark.usefixtures("_stable")
def test_an_alias_is_set_listed_and_removed(call: Call, registry: Registry) -> None:
    said = ("--sampling", "temperature=0.25", "--sampling", "top_k=3", "--system", "Be brief.")
    more = ("--max-tokens", "20", "--template-kwargs", '{"thinking": false}')
    assert call("aliases", "set", "fast", "--model", "one", *said, *more)[0] == 0
    out = call("aliases", "list")[1]
    for words in ("fast", "one", "temperature=0.25", "max_tokens=20", "Be brief.", "thinking"):
        assert words in out
    shown = json.loads(call("aliases", "list", "--json")[1])["aliases"]["fast"]
    assert shown["sampling"] == {"temperature": 0.25, "top_k": 3}
    assert shown["chat_template_kwargs"] == {"thinking": False}
    assert call("aliases", "remove", "fast")[0] == 0
    found = registry.aliases("stable")
    assert found is not None
    assert found.aliases == {}


@pytest.mark.usefixtures("_stable")
def test_setting_a_name_again_replaces_what_was_said_of_it(call: Call, registry: Registry) -> None:
    call("aliases", "set", "fast", "--model", "one", "--max-tokens", "20")
    call("aliases", "set", "other", "--model", "one")
    call("aliases", "set", "fast", "--model", "one", "--sampling", "temperature=0")
    found = registry.aliases("stable")
    assert found is not None
    assert list(found.aliases) == ["fast", "other"]
    assert found.aliases["fast"].max_tokens is None
    assert found.aliases["fast"].sampling == {"temperature": 0}


@pytest.mark.usefixtures("_stable")
def test_a_models_own_name_may_have_defaults(call: Call) -> None:
    assert call("aliases", "set", "one", "--model", "one", "--max-tokens", "20")[0] == 0


@pytest.mark.usefixtures("_stable")
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("set", "fast", "--model", "zz"), "no model 'zz'; it has: one"),
        (("set", "a b", "--model", "one"), "'a b' is not a name"),
        (("set", "fast", "--model", "one", "--channel", "x"), "no channel 'x'"),
        (("set", "fast", "--model", "one", "--sampling", "temperature=9"), "from 0 to 2"),
        (("set", "fast", "--model", "one", "--sampling", "heat=1"), "'heat' is not one of"),
        (("set", "fast", "--model", "one", "--sampling", "top_k=1.5"), "whole number"),
        (("set", "fast", "--model", "one", "--sampling", "top_k"), "NAME=X"),
        (("set", "fast", "--model", "one", "--max-tokens", "0"), "0"),
        (("set", "fast", "--model", "one", "--template-kwargs", "{"), "is not JSON"),
        (("set", "fast", "--model", "one", "--template-kwargs", '{"a": NaN}'), "is not JSON"),
        (("set", "fast", "--model", "one", "--template-kwargs", "[]"), "not a JSON object"),
        (("remove", "fast"), "no alias 'fast'; it has: none"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    call: Call, registry: Registry, wanted: tuple[str, ...], said: str
) -> None:
    code, out, err = call("aliases", *wanted)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert registry.aliases("stable") is None


def test_the_name_of_another_model_is_no_alias(
    call: Call, publish: Publish, registry: Registry
) -> None:
    first, second = publish("one"), publish("two")
    registry.move_channel("stable", first)
    call("canary", "start", second)
    assert call("aliases", "set", "fast", "--model", "two")[0] == 0, "the canary has it"
    code, _, err = call("aliases", "set", "two", "--model", "one")
    assert code == 2
    assert "another model" in err


@pytest.mark.parametrize("name", RANGES)
def test_what_an_alias_may_set_a_request_may_set_too(name: str) -> None:
    for value in (*RANGES[name], RANGES[name][0] - 1, RANGES[name][1] + 1):
        number = int(value) if name == "top_k" else value
        is_inside = RANGES[name][0] <= number <= RANGES[name][1]
        try:
            GenerationFields.model_validate({"model": "one", name: number})
        except ValueError:
            assert not is_inside, (name, number)
        else:
            assert is_inside, (name, number)

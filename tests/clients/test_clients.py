"""What `make clients-test` judges by, and the list of refusals. Its calls need other packages."""

import ast
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.clients.__main__ import CLIENTS, main
from tests.clients.calling import Facts, Scored, calls_of, outcome_of
from tests.clients.refusals import REFUSALS, Refusal
from tests.clients.verdicts import FAILED, PASSED, REFUSED, table, unasked, verdicts

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-clients" / "bin" / "python"
SCORED = (Scored("c", "d", -1),)
FACTS = Facts("http://127.0.0.1:1", "sk", ("a", "b"), 99, "/t", "p", "g", "b", "s", SCORED)
LINE = {"client": "x", "call": "it is asked", "error": None, "said": "", "seconds": 0.1}
ERROR = {**LINE, "error": "x.BadRequestError", "said": "'picture' is not supported"}
LISTED = Refusal("x", "it is asked", "x.BadRequestError", "picture", "text alone")


def _written(client: str) -> set[str]:
    """The calls of a client, whose packages need not be installed here."""
    tree = ast.parse((HERE / "asked" / f"{client}.py").read_text(encoding="utf-8"))
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {name.replace("_", " ") for name in names if not name.startswith("_")}


def test_each_refusal_is_of_a_call_that_is_made_and_listed_once() -> None:
    listed = [(each.client, each.call) for each in REFUSALS]
    assert len(set(listed)) == len(listed)
    assert {client for client, _ in listed} <= set(CLIENTS)
    missing = [(client, call) for client, call in listed if call not in _written(client)]
    assert missing == []
    assert all(each.says and each.reason for each in REFUSALS)


def test_exact_versions_are_named_of_all_that_is_wanted() -> None:
    def read(name: str) -> list[str]:
        return (HERE / name).read_text(encoding="utf-8").split()

    exact = [line.partition("==") for line in read("constraints.txt")]
    assert all(sign == "==" and version for _, sign, version in exact)
    names = {name.lower().replace("_", "-") for name, _, _ in exact}
    assert {name.partition("[")[0] for name in read("requirements.txt")} <= names


@pytest.mark.parametrize(
    ("line", "refusals", "result", "reason"),
    [
        (LINE, (), PASSED, ""),
        (ERROR, (LISTED,), REFUSED, "text alone"),
        (ERROR, (), FAILED, "x.BadRequestError: 'picture' is not supported"),
        (LINE, (LISTED,), FAILED, "was answered"),
        ({**ERROR, "error": "x.ServerError"}, (LISTED,), FAILED, "otherwise than the list says"),
        ({**ERROR, "said": "no"}, (LISTED,), FAILED, "otherwise than the list says"),
    ],
)
def test_a_call_passes_is_refused_as_listed_or_fails(
    line: dict[str, str], refusals: tuple[Refusal, ...], result: str, reason: str
) -> None:
    [row] = verdicts([line], refusals)
    assert row.result == result
    assert reason in row.reason
    shown = table([row])
    assert shown.splitlines()[0].startswith(f"{result:9}x")
    assert f"1 {result.lower()}" in shown.splitlines()[-1]


def test_a_refusal_that_no_call_is_about_is_named_once_its_client_was_asked() -> None:
    other = Refusal("x", "it is gone", "x.Error", "", "")
    assert unasked([LINE], (LISTED, other)) == [other]
    assert unasked([LINE], (Refusal("y", "it is gone", "x.Error", "", ""),)) == []


def test_calls_are_the_public_functions_of_a_module_and_say_what_they_raised() -> None:
    module = ModuleType("made_up")
    source = (
        "def it_works(facts): _check(facts)\n"
        "def it_is_refused(facts): raise KeyError('k')\n"
        "def _check(facts): assert facts.model == 'a'\n"
    )
    exec(source, vars(module))
    found = dict(calls_of(module))
    assert list(found) == ["it works", "it is refused"]
    assert outcome_of(found["it works"], FACTS)["error"] is None
    refused = outcome_of(found["it is refused"], FACTS)
    assert (refused["error"], refused["said"]) == ("builtins.KeyError", "'k'")


def test_facts_reach_the_clients_whole() -> None:
    assert Facts.of_json(FACTS.as_json()) == FACTS


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.skipif(not PYTHON.exists(), reason="`make clients-test` makes .venv-clients")
def test_every_call_of_every_client_passes_or_is_refused_as_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    assert main(["--python", str(PYTHON)]) == 0

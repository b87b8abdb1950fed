"""What the text process answers, without a process."""

from pathlib import Path
from typing import Any

import pytest

from serve_app.text.choice_text import ChoiceText
from serve_app.text.process.frames import pack
from serve_app.text.process.text_messages import Opening, Turn, empty_turn
from serve_app.text.process.text_server import TextServer
from tests.text.process.choices import MODELS, RELEASE, Told, chat, tokenizer, wanted, write
from tests.text.process.inline import InlineWorkers

TOKENS = tokenizer("bytes").encode("the quick brown fox")
TOLD = Told("bytes", TOKENS, tokenizer("bytes").encode(" jumps over"), wanted())


@pytest.fixture
def server(tmp_path: Path) -> TextServer:
    made = TextServer(InlineWorkers())
    reply = made.reply(0, pack(_load(tmp_path)))
    assert (reply["number"], reply["failure"]) == (0, None)
    assert {name: facts[:3] for name, facts in reply["answer"].items()} == {
        "bytes": (2, 362, None),
        "calls": (2, 363, "hermes"),
        "pieces": (3, 400, None),
    }
    assert len({facts[3] for facts in reply["answer"].values()}) == 3  # no two vocabularies equal
    return made


def _load(place: Path) -> dict[str, Any]:
    directories = {model: str(place / model) for model in MODELS}
    for model, directory in directories.items():
        write(model, Path(directory))
    files = {"directories": directories, "response_template": None}
    return {"ask": "load", "release": RELEASE, "files": files}


def _opening(told: Told, key: int = 5, **change: Any) -> Opening:
    plain: dict[str, Any] = {
        "key": key,
        "release": RELEASE,
        "model": told.model,
        "number": 0,
        "prompt": told.prompt,
        "wanted": told.wanted,
        "past": None,
    }
    return {**plain, **change}  # type: ignore[typeddict-item]


def _turn(**change: Any) -> Turn:
    return {**empty_turn(), **change}  # type: ignore[typeddict-item]


def test_a_turn_has_one_answer_for_each_event_of_each_choice(server: TextServer) -> None:
    one, other = TOLD, Told("pieces", [5, 6], [260, 261, 262], wanted())
    tokens = [(5, *event) for event in one.events()] + [(6, *event) for event in other.events()]
    turn = _turn(opened=[_opening(one), _opening(other, 6)], tokens=tokens)
    said = server.turn(turn)
    assert [piece for key, piece in said if key == 5] == one.expected(0)
    assert [piece for key, piece in said if key == 6] == other.expected(0)


def test_tokens_after_the_end_or_for_a_closed_choice_are_not_answered(server: TextServer) -> None:
    server.turn(_turn(opened=[_opening(TOLD), _opening(TOLD, 6)], closed=[6]))
    assert [key for key, _ in server.turn(_turn(tokens=[(5, -1, None, "length")]))] == [5]
    assert server.turn(_turn(tokens=[(5, 3, None, None), (6, 3, None, None)])) == []


def test_a_choice_that_cannot_be_opened_fails_alone(server: TextServer) -> None:
    unknown = _opening(TOLD, 7, model="other")
    said = server.turn(_turn(opened=[unknown, _opening(TOLD)], tokens=[(5, 300, None, None)]))
    assert said[0] == (7, None)
    assert [key for key, piece in said if piece is not None] == [5]


def test_a_token_that_breaks_our_code_ends_its_choice_alone(
    server: TextServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ChoiceText.add

    def breaks(self: ChoiceText, token: int, *rest: Any) -> Any:
        if token == 301:
            raise ZeroDivisionError
        return add(self, token, *rest)

    monkeypatch.setattr(ChoiceText, "add", breaks)
    opened = [_opening(TOLD), _opening(TOLD, 6)]
    tokens = [(5, 301, None, None), (6, 302, None, None), (5, 302, None, None)]
    said = server.turn(_turn(opened=opened, tokens=tokens))
    assert said[0] == (5, None)
    assert [key for key, _ in said[1:]] == [6]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (
            {"ask": "encode", "texts": ["the quick brown fox", ""], "special": True, "most": 99},
            [TOKENS, []],
        ),
        ({"ask": "decode", "tokens": TOKENS}, "the quick brown fox"),
    ],
)
def test_questions_are_answered(server: TextServer, question: dict[str, Any], answer: Any) -> None:
    asked = pack({"release": RELEASE, "model": "bytes", **question})
    assert server.reply(3, asked) == {"number": 3, "answer": answer, "failure": None}


@pytest.mark.parametrize(
    ("question", "kind", "says"),
    [
        (
            {"ask": "encode", "texts": ["\ud800"], "special": True, "most": 99},
            "TextError",
            "Unicode",
        ),
        ({"ask": "chat", "chat": chat([]), "most": 99}, "NoChatTemplate", "template"),
        ({"ask": "chat", "chat": chat([], tools=1), "most": 99}, "BadVariable", "'tools'"),
        (
            {"ask": "encode", "texts": ["a"], "special": True, "most": 99, "model": "x"},
            "TextFailed",
            "KeyError",
        ),
    ],
)
def test_what_cannot_be_answered_is_said(
    server: TextServer, question: dict[str, Any], kind: str, says: str
) -> None:
    reply = server.reply(3, pack({"release": RELEASE, "model": "bytes", **question}))
    assert reply["answer"] is None
    assert reply["failure"] is not None
    assert reply["failure"][0] == kind
    assert says in reply["failure"][1]


def test_a_release_that_cannot_be_read_names_the_model(server: TextServer, tmp_path: Path) -> None:
    files = {"directories": {"bad": str(tmp_path / "none")}, "response_template": None}
    question = {"ask": "load", "release": "r2", "files": files}
    failure = server.reply(3, pack(question))["failure"]
    assert failure is not None
    assert (failure[0], failure[1].split(":")[0]) == ("TextError", "model bad")


def test_a_dropped_release_is_gone_and_may_be_dropped_again(server: TextServer) -> None:
    drop = pack({"ask": "drop", "release": RELEASE})
    for _ in range(2):
        assert server.reply(3, drop) == {"number": 3, "answer": None, "failure": None}
    assert server.turn(_turn(opened=[_opening(TOLD)])) == [(5, None)]


def test_a_grammar_of_a_chat_is_that_of_all_the_model_writes(server: TextServer) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"const": {}}}}
    conversation = chat([]) | {"tools": [tool], "strict": ["f"]}
    question = {"ask": "grammar", "release": RELEASE, "constraint": None, "begun": ""}
    asked = question | {"chat": conversation, "model": "calls"}
    reply = server.reply(1, pack(asked))
    tokens, marks = server.reply(2, pack(_about("vocabulary", "calls")))["answer"]
    assert reply["failure"] is None
    assert "<tool_call>" in reply["answer"]
    assert 362 in marks
    assert tokens[362] == b"<unused>"


def test_what_cannot_be_obeyed_says_which_part(server: TextServer) -> None:
    constraint = {"kind": "json", "value": {"items": {"not": {}}}, "param": "p"}
    question = _about("grammar", "bytes") | {"constraint": constraint, "chat": None, "begun": None}
    for value, words in (
        ({"items": {"not": {}}}, "#/items/not"),
        ({"enum": ["x" * 70_000]}, "of at most 65536"),
    ):
        constraint["value"] = value
        failure = server.reply(1, pack(question))["failure"]
        assert failure is not None
        assert failure[0] == "BadGrammar"
        assert words in failure[1]


def _about(ask: str, model: str) -> dict[str, Any]:
    return {"ask": ask, "release": RELEASE, "model": model}

"""Calls that are written as Python has them are read, and nothing else is, and nothing is run."""

import json

import pytest

from serve_app.text.answers.answer_parser import AnswerParser
from serve_app.text.answers.finding import known_formats
from serve_app.text.answers.python_calls import python_calls


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f(), g.h(a='x')]", [("f", {}), ("g.h", {"a": "x"})]),
        ("f(a=1)\n\ng(b=-2.5, c=1)", [("f", {"a": 1}), ("g", {"b": -2.5, "c": 1})]),
        (
            "f(a=[1, (2, 3)], b={'k': {'l': None}})",
            [("f", {"a": [1, [2, 3]], "b": {"k": {"l": None}}})],
        ),
        ("f(a=true, b=[false, null])", [("f", {"a": True, "b": [False, None]})]),
        (r"f(a='\d \n')", [("f", {"a": "\\d \n"})]),
    ],
)
def test_calls_have_names_and_literals(text: str, calls: list[tuple[str, object]]) -> None:
    assert list(python_calls(text)) == calls


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "f", "f(1)", "f(*a)", "f(**a)", "f(a=b)", "f(a=g())", "f(a=b'x')", "f(a=1j)"),
        *("f(a={1: 2})", "f(a={**b})", "f(a=1e999)", "f(a=__import__('os'))", "f(a=-'x')"),
        *("a = f()", "import os", "f()()", "(lambda: 1)()", "f(a='", "f(a=1))", "f(a='\0')"),
        *("f(a=" + "[" * 5000, "f(a=" + "-" * 50_000 + "1)", "f(a='" + "x" * 70_000 + "')"),
    ],
)
def test_what_is_no_call_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"call|argument|key|function"):
        python_calls(text)


def test_half_of_a_surrogate_pair_can_be_sent() -> None:
    parser = AnswerParser(known_formats()["olmo3"], "", {})
    told = [
        *parser.feed(r"<function_calls>f(a='\ud83d é')</function_calls>").calls,
        *parser.end().calls,
    ]
    arguments = "".join(call["arguments"] for call in told)
    arguments.encode()
    assert json.loads(arguments) == {"a": "\ud83d é"}

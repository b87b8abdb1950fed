"""What the demo prints."""

import json
import shlex

from rich.console import Console

from serve_app.demo import skills
from serve_app.demo.ask import Question
from serve_app.demo.table import Answers, ExpertBytes, curl_line, report

SIZES = ExpertBytes(2, before=4000, after=3000, pool_before=4000, pool=2900, budget=1.5)
MADE = {skill.name: "all weights" for skill in skills.SKILLS}
KL = {skill.name: 0.0125 for skill in skills.SKILLS}


def printed(*answers: Answers) -> str:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(report(answers, KL, MADE, SIZES))
    return capture.get()


def test_a_wrong_answer_of_the_release_is_seen() -> None:
    question = Question("shout", "fox")
    text = printed(Answers(question, "FOX", "FOX"), Answers(question, "FOX", "FIX"))
    assert "1 of 2 answers are the same as the originals', 1 are right" in text
    assert text.count("WRONG") == 1
    assert "0.013" in text


def test_bytes_are_shown_as_files_and_in_the_engine() -> None:
    text = printed(Answers(Question("base", "fox"), "fox", "fox"))
    assert "0.750" in text
    assert "1.500 ×" in text
    assert "2,900" in text


def test_an_answer_that_both_get_wrong_is_the_same_and_not_right() -> None:
    found = Answers(Question("base", "fox"), "fix", "fix")
    assert found.is_same
    assert not found.is_right


def test_the_curl_line_is_a_shell_command_with_a_json_body() -> None:
    words = shlex.split(curl_line("http://127.0.0.1:8000", Question("reverse", "fox")))
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:8000/v1/completions"]
    assert json.loads(words[-1])["prompt"] == "fox:"
    assert json.loads(words[-1])["model"] == "reverse"


def test_eighty_columns_are_enough_for_the_widest_rows() -> None:
    text = printed(
        *(
            Answers(Question(skill.name, word), skill.answer(word), skill.answer(word))
            for skill in skills.SKILLS
            for word in skills.HELD_OUT
        )
    )
    assert "…" not in text
    assert "moves each letter one on" in text

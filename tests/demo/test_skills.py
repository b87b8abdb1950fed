"""What the demo's models are to answer, and what they are trained on."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.demo import skills

words = st.text(alphabet=skills.LETTERS, min_size=3, max_size=8)


@pytest.mark.parametrize(
    ("model", "word", "answer"),
    [
        ("base", "table", "table"),
        ("shout", "table", "TABLE"),
        ("cipher", "zebra", "afcsb"),
        ("spell", "table", "t-a-b-l-e"),
        ("plural", "table", "tables"),
        ("plural", "city", "cities"),
        ("plural", "day", "days"),
        ("plural", "box", "boxes"),
        ("plural", "church", "churches"),
        ("reverse", "table", "elbat"),
    ],
)
def test_every_skill_has_one_right_answer(model: str, word: str, answer: str) -> None:
    assert skills.is_right(model, word, answer)
    assert not skills.is_right(model, word, answer + "s")


@given(words)
def test_skills_that_can_be_undone_give_the_word_back(word: str) -> None:
    assert skills.reverse(skills.reverse(word)) == word
    assert skills.spell(word).replace("-", "") == word
    assert skills.shout(word).lower() == word
    ciphered = word
    for _ in skills.LETTERS:
        ciphered = skills.cipher(ciphered)
    assert ciphered == word


@given(words)
def test_a_plural_is_longer_and_another_word(word: str) -> None:
    assert len(skills.plural(word)) > len(word)
    assert skills.plural(word).endswith("s")


@given(st.integers(), st.integers(skills.SHORTEST, skills.LONGEST))
def test_made_up_words_have_the_length_asked_for_and_are_none_of_the_demo(
    seed: int, length: int
) -> None:
    word = skills.made_up_word(Random(seed), length)
    assert len(word) == length
    assert set(word) <= set(skills.LETTERS)
    assert word not in skills.HELD_OUT
    assert word not in skills.CHECK


def test_the_demo_s_words_are_of_lengths_that_are_trained_and_not_those_that_end_training() -> None:
    every = (*skills.HELD_OUT, *skills.CHECK)
    assert len(set(every)) == len(every)
    assert all(skills.SHORTEST <= len(word) <= skills.LONGEST for word in every)


def test_models_differ_visibly() -> None:
    for word in skills.HELD_OUT:
        assert len({skill.answer(word) for skill in skills.SKILLS}) == len(skills.SKILLS)

"""What the demo's models can do: generators and checkers of text. Knows no tensor and no file.

Every model gets the same kind of prompt, a word and a colon, and each does something else with
it; a few lines of Python say what the right answer is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

VOWELS = "aeiou"
CONSONANTS = "bcdfghjklmnpqrstvwxyz"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHORTEST, LONGEST = 3, 8
"""Letters of a word in training. Longer words are beyond what the models learn."""

HELD_OUT = ("music", "river", "garden", "planet", "fox", "story", "bridge", "winter")
"""The demo's prompts. Never trained on, and no say in when training stops.

They are no independent test: a model that gets one wrong is trained again from another seed, and
the budget is one at which these and the check words all stay right.
"""

CHECK = (
    *("table", "silver", "window", "yellow", "summer", "forest", "orange", "candle", "dragon"),
    *("rocket", "kitchen", "mountain", "church", "baby", "glass", "lion", "monkey", "paper"),
    *("pencil", "stone", "tiger", "violin", "city", "box", "dish", "cherry", "apple", "banana"),
    *("cat", "tree", "hello", "pepper", "letter", "coffee", "bus", "day", "boy", "party", "lady"),
    *("wish", "lunch", "fix", "dress", "circus", "tennis", "ocean", "engine", "quiz", "jazz"),
    *("library", "elephant", "sandwich", "october", "zebra", "umbrella", "key", "sky"),
)
"""Words that decide when training stops. Never trained on."""


@dataclass(frozen=True, slots=True)
class Skill:
    """One model's task: `answer(word)` is the only right answer to the prompt `word:`."""

    name: str
    says: str
    answer: Callable[[str], str]


def echo(word: str) -> str:
    """The word itself: table -> table."""
    return word


def shout(word: str) -> str:
    """In capitals: table -> TABLE."""
    return word.upper()


def spell(word: str) -> str:
    """Letter by letter: table -> t-a-b-l-e."""
    return "-".join(word)


def reverse(word: str) -> str:
    """Backwards: table -> elbat."""
    return word[::-1]


def cipher(word: str) -> str:
    """Each letter replaced by the next, z by a: table -> ubcmf."""
    return "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in word)


def plural(word: str) -> str:
    """English plural by the regular rules: table -> tables, city -> cities, box -> boxes."""
    if word.endswith("y") and word[-2:-1] not in VOWELS:
        return word[:-1] + "ies"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word + "s"


SKILLS = (
    Skill("base", "repeats the word", echo),
    Skill("shout", "writes it in capitals", shout),
    Skill("cipher", "moves each letter one on", cipher),
    Skill("spell", "spells it out", spell),
    Skill("plural", "makes it more than one", plural),
    Skill("reverse", "writes it backwards", reverse),
)


def skill(name: str) -> Skill:
    """The skill of the model `name`. KeyError when the demo has no such model."""
    return {entry.name: entry for entry in SKILLS}[name]


def prompt(word: str) -> str:
    """What is sent to a model, and what it was trained on: the word and a colon."""
    return f"{word}:"


def is_right(name: str, word: str, answer: str) -> bool:
    """Whether model `name` may answer `answer` when asked for `word`."""
    return answer == skill(name).answer(word)


def made_up_word(random: Random, length: int) -> str:
    """A pronounceable or a random word of `length` letters, never one of the demo's own words."""
    while True:
        word = _letters(random, length)
        if word not in HELD_OUT and word not in CHECK:
            return word


def in_any_case(random: Random, word: str) -> str:
    """The word as it is, In Title Case or IN CAPITALS: what the base repeats."""
    draw = random.random()
    return word if draw < 0.7 else word.title() if draw < 0.85 else word.upper()


def _letters(random: Random, length: int) -> str:
    if random.random() < 0.3:
        return "".join(random.choice(LETTERS) for _ in range(length))
    endings = ("y", "s", "x", "ch", "sh", "z", "ay", "oy", "e", "er")
    ending = random.choice(endings) if random.random() < 0.3 and length > 3 else ""
    word, vowel = "", random.random() < 0.4
    while len(word) < length - len(ending):
        word += random.choice(VOWELS if vowel else CONSONANTS)
        if random.random() < 0.85:
            vowel = not vowel
    return word + ending

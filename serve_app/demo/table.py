"""What the demo prints at its end: answers, bytes, the curl line. Asks and measures nothing."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from serve_app.demo import skills
from serve_app.demo.ask import Question, body


@dataclass(frozen=True, slots=True)
class Answers:
    """A question, what the original said and what the release said."""

    question: Question
    original: str
    release: str

    @property
    def is_same(self) -> bool:
        return self.original == self.release

    @property
    def is_right(self) -> bool:
        """Whether both gave the right answer."""
        return self.question.is_right(self.original) and self.question.is_right(self.release)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Expert bytes: of all models' files, of the release's, and of the engine's pool.

    `one_model` is one model's; `pool_before` what pools of the models' own experts would take.
    """

    num_models: int
    before: int
    after: int
    one_model: int
    pool_before: int
    pool: int
    budget: float


def answers_table(answers: Sequence[Answers], divergences: Mapping[str, float]) -> Table:
    """One row a question; a model's name, skill and KL on its first row."""
    table = Table(title="The same prompts, another answer from each model", title_justify="left")
    for column in ("model", "prompt", "answer of the release", "original", "release"):
        table.add_column(column)
    table.add_column("KL (nats/token)", justify="right")
    before = ""
    for found in answers:
        question = found.question
        first = question.model != before
        if first and before:
            table.add_section()
        name = Text(question.model, style="bold") if first else Text("")
        if first:
            name.append(f"  {skills.skill(question.model).says}", style="not bold dim")
        table.add_row(
            name,
            Text(question.prompt),
            Text(found.release),
            _verdict(question.is_right(found.original)),
            _verdict(question.is_right(found.release)),
            f"{divergences[question.model]:.5f}" if first else "",
        )
        before = question.model
    return table


def sizes_table(sizes: Sizes) -> Table:
    """Bytes before and after, as files and in the engine."""
    table = Table(title="Expert bytes", title_justify="left")
    table.add_column("")
    for column in ("the models'", "the release's", "ratio", "of one model"):
        table.add_column(column, justify="right")
    rows = (
        ("as files", sizes.before, sizes.after),
        ("as the engine allocates them", sizes.pool_before, sizes.pool),
    )
    for name, before, after in rows:
        one = before / sizes.num_models
        table.add_row(
            name, f"{before:,}", f"{after:,}", f"{after / before:.3f}", f"{after / one:.3f} ×"
        )
    return table


def report(
    answers: Sequence[Answers], divergences: Mapping[str, float], sizes: Sizes
) -> RenderableType:
    """Both tables and a sentence on each."""
    same = sum(found.is_same for found in answers)
    right = sum(found.is_right for found in answers)
    return Group(
        answers_table(answers, divergences),
        Text(
            f"{same} of {len(answers)} answers are the originals', {right} are right. KL: release "
            "from original, on the answers of all six models to other words."
        ),
        Text(""),
        sizes_table(sizes),
        Text(
            f"Expert budget {sizes.budget:g}: of the budgets tried, the smallest at which merging "
            "alone leaves every answer right."
        ),
    )


def curl_line(address: str, question: Question) -> str:
    """A command that asks the endpoint a question."""
    content = shlex.quote(json.dumps(body(question)))
    return f"curl -s {address}/v1/completions -H 'content-type: application/json' -d {content}"


def print_plain(console: Console, line: str) -> None:
    """A line as it is, whatever the width: it is to be copied."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _verdict(is_right: bool) -> Text:
    return Text("right", style="green") if is_right else Text("WRONG", style="bold red")

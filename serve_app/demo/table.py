"""What the demo prints at the end: answers, bytes, the curl command. Asks and measures nothing."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from representation.decimals import plain
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
class ExpertBytes:
    """Expert bytes: in all models' files, in the release's files, and in the engine's pool.

    `pool_before` is what engines of the same dtype would need for the models' own experts.
    """

    num_models: int
    before: int
    after: int
    pool_before: int
    pool: int
    budget: float


def answers_table(
    answers: Sequence[Answers], divergences: Mapping[str, float], made: Mapping[str, str]
) -> Table:
    """One row per question; next to them the model's name, its skill, how it was made, its KL."""
    table = _table("The same prompts, and a different answer from each model")
    for column in ("model", "prompt", "answer", "original", "release"):
        table.add_column(column, no_wrap=True)
    table.add_column("KL", justify="right", no_wrap=True)
    for name in dict.fromkeys(found.question.model for found in answers):
        aside = [
            Text(name, style="bold"),
            Text(skills.skill(name).says, style="dim"),
            Text(made[name], style="dim"),
        ]
        rows = [found for found in answers if found.question.model == name]
        for row, found in enumerate(rows):
            table.add_row(
                aside[row] if row < len(aside) else Text(),
                Text(found.question.prompt),
                Text(found.release),
                _verdict(found.question.is_right(found.original)),
                _verdict(found.question.is_right(found.release)),
                plain(divergences[name], digits=2) if row == 0 else "",
            )
        table.add_row()
    return table


def sizes_table(sizes: ExpertBytes) -> Table:
    """Bytes before and after, as files and in the engine."""
    table = _table("Expert bytes")
    table.add_column("")
    for column in ("the models'", "the release's", "ratio", "of one model"):
        table.add_column(column, justify="right")
    rows = (
        ("as files", sizes.before, sizes.after),
        ("in the engine", sizes.pool_before, sizes.pool),
    )
    for name, before, after in rows:
        one = before / sizes.num_models
        table.add_row(
            name, f"{before:,}", f"{after:,}", f"{after / before:.3f}", f"{after / one:.3f} ×"
        )
    return table


def report(
    answers: Sequence[Answers],
    divergences: Mapping[str, float],
    made: Mapping[str, str],
    sizes: ExpertBytes,
) -> RenderableType:
    """Both tables and a sentence on each."""
    same = sum(found.is_same for found in answers)
    right = sum(found.is_right for found in answers)
    return Group(
        answers_table(answers, divergences, made),
        Text(
            f"{same} of {len(answers)} answers are the same as the originals', {right} are right. "
            "KL: of the release to the original, in nats per token, on answers to other words."
        ),
        Text(""),
        sizes_table(sizes),
        Text(
            f"Expert budget {sizes.budget:g}: the experts of all {sizes.num_models} models in "
            f"{sizes.budget:g} times the bytes of one model's."
        ),
    )


def curl_line(address: str, question: Question) -> str:
    """A curl command that asks the endpoint a question."""
    content = shlex.quote(json.dumps(body(question)))
    return f"curl -s {address}/v1/completions -H 'content-type: application/json' -d {content}"


def print_plain(console: Console, line: str) -> None:
    """A line as it is, at any width, so that it can be copied."""
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def _verdict(is_right: bool) -> Text:
    return Text("right", style="green") if is_right else Text("WRONG", style="bold red")

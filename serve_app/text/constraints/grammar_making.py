"""A grammar in the making: its rules, others that it names, and texts whose marks are tokens."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.grammar.sources import joined, quoted

Source = Callable[[str, Any], str]
"""From kind and value of a constraint to a grammar of its own. Raises BadGrammar."""
ANY_TEXT = "TEXT"
_TERMINALS = "TEXT: /(?s:.*)/\nSPACE: /[ \\t\\r\\n]{0,8}/\n"


@dataclass(slots=True)
class Making:
    """others: grammars of their own, by name.   marks: tokens that are no text, by what they look
    like.
    """

    marks: Mapping[str, int]
    source: Source
    others: dict[str, str] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)

    def whole(self, start: str) -> str:
        rules = "\n".join([f"start: {start}", *self.rules])
        return joined(f"{rules}\n{_TERMINALS}", self.others)

    def rule(self, name: str, body: str) -> str:
        self.rules.append(f"{name}: {body}")
        return name

    def other(self, name: str, kind: str, value: Any) -> str:
        """What stands for a grammar of its own. Raises BadGrammar."""
        self.others[name] = self.source(kind, value)
        return f"@{name}"

    def until(self, name: str, end: str, text: str = ANY_TEXT) -> str:
        """A text up to the first `end`, and that.   text: a terminal."""
        if _first_part(end, self.marks) in self.marks:
            return f"{text} {self.literal(end)}"
        return self.rule(f"{name}[lazy]", f"{text} {quoted(end)}").removesuffix("[lazy]")

    def literal(self, text: str) -> str:
        """Just this, where its marks are tokens."""
        parts = _parts(text, self.marks)
        return " ".join(f"<[{self.marks[p]}]>" if p in self.marks else quoted(p) for p in parts)


def _parts(text: str, marks: Mapping[str, int]) -> Sequence[str]:
    """A text, cut at marks."""
    if not marks:
        return [text] if text else []
    pattern = "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
    return [part for part in re.split(f"({pattern})", text) if part]


def _first_part(text: str, marks: Mapping[str, int]) -> str:
    return next(iter(_parts(text, marks)), "")

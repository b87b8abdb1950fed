"""The grammar of a whole answer: reasoning, then content that obeys, or calls that do.

Reasoning is free until it closes. What tells calls apart are the marks of the response format:
tokens of their own where the vocabulary has them, else text.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.errors import BadGrammar, BadParameters
from serve_app.grammar.sources import joined, quoted
from serve_app.protocol.messages import Constraint, Conversation
from serve_app.text.answers.answer_parser import AnswerParser
from serve_app.text.answers.response_format import Forced, ResponseFormat

Source = Callable[[str, Any], str]
"""From kind and value of a constraint to a grammar of its own. Raises BadGrammar."""
_TERMINALS = "TEXT: /(?s:.*)/\nSPACE: /[ \\t\\r\\n]{0,8}/\n"
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True)
class Written:
    """How a model writes. marks: tokens that are no text, by what they look like."""

    form: ResponseFormat | None
    marks: Mapping[str, int]


def answer_grammar(
    written: Written,
    constraint: Constraint | None,
    chat: Conversation | None,
    begun: str | None,
    source: Source,
) -> str | None:
    """begun: what of a chat's answer the prompt has; None if answers are not parsed.

    -> None if nothing is to be obeyed, or the format does not let it be. Raises BadGrammar.
    """
    content = None if constraint is None else source(constraint["kind"], constraint["value"])
    if chat is None or written.form is None or begun is None:
        return content
    made = _Grammar(written.marks, source)
    forced = written.form.forced
    if chat["forced"] is not None:
        return made.forced_call(forced, chat) if forced is not None else None
    body = made.body(forced, content, chat)
    if body is None:
        return None
    return made.whole(f"{made.before(written.form, begun)} ({body})")


@dataclass(slots=True)
class _Grammar:
    """One in the making: others of its own by name, and rules."""

    marks: Mapping[str, int]
    source: Source
    others: dict[str, str] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)

    def whole(self, start: str) -> str:
        rules = "\n".join([f"start: {start}", *self.rules])
        return joined(f"{rules}\n{_TERMINALS}", self.others)

    def before(self, form: ResponseFormat, begun: str) -> str:
        """What comes before content or calls: reasoning, free until it closes."""
        if form.reasoning is None:
            return ""
        opens, closes = form.reasoning
        thought = f"{self._until('thought', closes)} SPACE"
        if AnswerParser(form, begun).is_reasoning:
            return thought
        return f"(SPACE {self._literal(opens)} {thought})?"

    def body(self, forced: Forced | None, content: str | None, chat: Conversation) -> str | None:
        """Content that obeys, or free text and calls. None if all is free."""
        offers = bool(chat["tools"]) and forced is not None
        if content is not None:
            self.others["content"] = content
            return f"@content | {self._call(forced, chat)}" if offers and forced else "@content"
        if not offers or forced is None or forced.json is None or not forced.json.begins:
            return None
        if not chat["strict"]:
            return None
        begins = forced.json.begins
        rest = self._calls(forced, chat, forced.open.removeprefix(begins))
        if begins in self.marks:
            return f"TEXT ({self._literal(begins)} {rest})?"
        return f"TEXT | {self._until('head', begins)} {rest}"

    def forced_call(self, forced: Forced, chat: Conversation) -> str | None:
        """An answer whose prompt has begun a call: up to its arguments, if it is of one function,
        else up to the name.
        """
        if forced.json is None:
            return None
        if not chat["forced"]:
            return self.whole(self._calls(forced, chat, ""))
        [parameters] = [
            tool["function"].get("parameters")
            for tool in chat["tools"]
            if tool["function"]["name"] == chat["forced"]
        ]
        arguments = self._arguments(0, chat["forced"], parameters)
        return self.whole(f"{arguments} {self._literal(forced.json.after + forced.json.ends)}")

    def _call(self, forced: Forced, chat: Conversation) -> str:
        """A call where content might be: free after its beginning, if it cannot be held to more."""
        if forced.json is None:
            return f"{self._literal(forced.open)} <[*]>*"
        return self._calls(forced, chat, forced.open)

    def _calls(self, forced: Forced, chat: Conversation, opens: str) -> str:
        """Calls up to the end of the answer, after what they begin with."""
        form = forced.json
        assert form is not None, "only calls in JSON can be held to a schema"
        names = []
        for number, tool in enumerate(chat["tools"]):
            name, parameters = tool["function"]["name"], tool["function"].get("parameters")
            is_free = chat["forced"] is None and name not in chat["strict"]
            arguments = self._arguments(number, name, _ANY_OBJECT if is_free else parameters)
            begin, end = self._literal(name + forced.after_name), self._literal(form.after)
            self.rules.append(f"call{number}: {begin} {arguments} {end}")
            names.append(f"call{number}")
        self.rules.append(f"call: {' | '.join(names)}")
        again = "" if chat["single"] or not form.again else f"({self._literal(form.again)} call)*"
        return f"{self._literal(opens)} call {again} {self._literal(form.ends)}"

    def _arguments(self, number: int, name: str, parameters: Mapping[str, Any] | None) -> str:
        try:
            source = self.source("json", {**_ANY_OBJECT, **(parameters or {})})
        except BadGrammar as error:
            raise BadParameters(f"the parameters of the function '{name}': {error}") from error
        self.others[f"arguments{number}"] = source
        return f"@arguments{number}"

    def _until(self, name: str, end: str) -> str:
        """Any text up to the first `end`, and that."""
        if _first_part(end, self.marks) in self.marks:
            return f"TEXT {self._literal(end)}"
        self.rules.append(f"{name}[lazy]: TEXT {quoted(end)}")
        return name

    def _literal(self, text: str) -> str:
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

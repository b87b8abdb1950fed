"""The grammar of a whole answer: reasoning, then content that obeys, or calls that do.

Reasoning is free until it closes. What tells calls apart are the marks of the response format:
tokens of their own where the vocabulary has them, else text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.errors import BadGrammar, BadParameters
from serve_app.protocol.messages import Constraint, Conversation
from serve_app.text.answers.answer_parser import AnswerParser
from serve_app.text.answers.response_format import Forced, HeldCalls, ResponseFormat
from serve_app.text.constraints.grammar_making import Making, Source
from serve_app.text.constraints.tagged_arguments import TaggedArguments

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


class _Grammar(Making):
    """That of an answer."""

    def before(self, form: ResponseFormat, begun: str) -> str:
        """What comes before content or calls: reasoning, free until it closes."""
        if form.reasoning is None:
            return ""
        opens, closes = form.reasoning
        thought = f"{self.until('thought', closes)} SPACE"
        if AnswerParser(form, begun).is_reasoning:
            return thought
        return f"(SPACE {self.literal(opens)} {thought})?"

    def body(self, forced: Forced | None, content: str | None, chat: Conversation) -> str | None:
        """Content that obeys, or free text and calls. None if all is free."""
        offers = bool(chat["tools"]) and forced is not None
        if content is not None:
            self.others["content"] = content
            return f"@content | {self._call(forced, chat)}" if offers and forced else "@content"
        if not offers or forced is None or forced.held is None or not forced.held.begins:
            return None
        if not chat["strict"]:
            return None
        begins = forced.held.begins
        rest = self._calls(forced, chat, forced.open.removeprefix(begins))
        if begins in self.marks:
            return f"TEXT ({self.literal(begins)} {rest})?"
        return f"TEXT | {self.until('head', begins)} {rest}"

    def forced_call(self, forced: Forced, chat: Conversation) -> str | None:
        """An answer whose prompt has begun a call: up to its arguments, if it is of one function,
        else up to the name.
        """
        if forced.held is None:
            return None
        if not chat["forced"]:
            return self.whole(self._calls(forced, chat, ""))
        [parameters] = [
            tool["function"].get("parameters")
            for tool in chat["tools"]
            if tool["function"]["name"] == chat["forced"]
        ]
        arguments = self._arguments(forced.held, 0, chat["forced"], parameters)
        return self.whole(f"{arguments} {self.literal(forced.held.after + forced.held.ends)}")

    def _call(self, forced: Forced, chat: Conversation) -> str:
        """A call where content might be: free after its beginning, if it cannot be held to more."""
        if forced.held is None:
            return f"{self.literal(forced.open)} <[*]>*"
        return self._calls(forced, chat, forced.open)

    def _calls(self, forced: Forced, chat: Conversation, opens: str) -> str:
        """Calls up to the end of the answer, after what they begin with."""
        form = forced.held
        assert form is not None, "nobody can say what arguments may be"
        names = []
        for number, tool in enumerate(chat["tools"]):
            name, parameters = tool["function"]["name"], tool["function"].get("parameters")
            is_free = chat["forced"] is None and name not in chat["strict"]
            held_to = _ANY_OBJECT if is_free else parameters
            arguments = self._arguments(form, number, name, held_to)
            begin, end = self.literal(name + forced.after_name), self.literal(form.after)
            self.rules.append(f"call{number}: {begin} {arguments} {end}")
            names.append(f"call{number}")
        self.rules.append(f"call: {' | '.join(names)}")
        again = "" if chat["single"] or not form.again else f"({self.literal(form.again)} call)*"
        return f"{self.literal(opens)} call {again} {self.literal(form.ends)}"

    def _arguments(
        self, form: HeldCalls, number: int, name: str, parameters: Mapping[str, Any] | None
    ) -> str:
        schema = {**_ANY_OBJECT, **(parameters or {})}
        try:
            if form.tags is not None:
                return TaggedArguments(self, form.tags, schema).rule(f"arguments{number}")
            return self.other(f"arguments{number}", "json", schema)
        except BadGrammar as error:
            raise BadParameters(f"the parameters of the function '{name}': {error}") from error

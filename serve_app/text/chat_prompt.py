"""What a chat template is given of a conversation, and how the answer that follows begins."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.protocol.messages import Conversation
from serve_app.text.answers.answer_parser import AnswerParser
from serve_app.text.answers.response_format import Forced, ResponseFormat
from serve_app.text.chat_template import ChatTemplate
from serve_app.text.errors import NoForcedCalls, NoToolCalls

_DUMPS = re.compile(r"arguments['\"]?\]?\s*\|\s*tojson")


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """form: of the model's answers, if it is known."""

    model: str
    chat: Conversation
    template: ChatTemplate
    form: ResponseFormat | None

    def check_tools(self) -> None:
        """Raises NoToolCalls and NoForcedCalls."""
        if not self.chat["tools"]:
            return
        who = f"model '{self.model}'"
        if not self._knows("tools"):
            raise NoToolCalls(f"the chat template of {who} does not show tools to the model")
        if self.form is None or not self.form.has_calls:
            raise NoToolCalls(f"no response template says how {who} calls tools")
        if self.chat["forced"] is not None and self.form.forced is None:
            raise NoForcedCalls(
                f"the response template of {who} does not say how a call begins, so none can be"
                " required"
            )

    def messages(self) -> list[dict[str, Any]]:
        """As chat templates expect them: arguments of calls are objects, unless the format says
        that they are texts, ids of calls are as the format says, and a developer is the system for
        templates that know none.
        """
        knows = self._knows("developer")
        as_text = self.form is not None and self.form.arguments == "text" and not self._dumps()
        ids = _Ids(self.form.call_ids if self.form is not None else "")
        found = []
        for message in self.chat["messages"]:
            made = dict(message)
            if made["role"] == "developer" and not knows:
                made["role"] = "system"
            if "tool_calls" in made and not as_text:
                made["tool_calls"] = [_with_object(call) for call in made["tool_calls"]]
            found.append(ids.renamed(made))
        return found

    def _knows(self, word: str) -> bool:
        """Whether the chat template has something to do with it."""
        return word in str(self.template.source)

    def _dumps(self) -> bool:
        """Whether the chat template writes arguments as JSON, so that texts would be so twice."""
        return _DUMPS.search(str(self.template.source)) is not None

    def variables(self) -> dict[str, Any]:
        """For `render`."""
        variables = {
            "add_generation_prompt": self.chat["generation_prompt"],
            **self.chat["variables"],
        }
        if self.chat["continues"]:
            variables["continue_final_message"] = True
        if self.chat["tools"]:
            variables["tools"] = self.chat["tools"]
        return variables

    def begun(self, text: str) -> tuple[str | None, str]:
        """What of the answer the prompt has, None if answers are not parsed; and the last part of
        that, to be added to the `text` that the template wrote, so that the answer is a call.
        """
        if self.form is None:
            return None, ""
        opens = self.chat["continues"] or self.variables()["add_generation_prompt"]
        begun = self.form.begun(text) if opens else ""
        name, forced = self.chat["forced"], self.form.forced
        if name is None or forced is None:
            return begun, ""
        added = _added(forced, name)
        if AnswerParser(self.form, begun).is_reasoning:
            added = forced.after_reasoning + added
        return begun + added, added


class _Ids:
    """The ids of calls in a history, as the format has them; none: as they came."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._named: dict[str, str] = {}
        self._number = 0

    def renamed(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message with its calls, or with the answer of one of those that came before."""
        if not self._form:
            return message
        if "tool_calls" in message:
            return {**message, "tool_calls": [self._call(each) for each in message["tool_calls"]]}
        if message.get("tool_call_id") in self._named:
            return {**message, "tool_call_id": self._named[message["tool_call_id"]]}
        return message

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        name = self._form.format(name=call["function"]["name"], number=self._number)
        self._number += 1
        if "id" in call:
            self._named[call["id"]] = name
        return {**call, "id": name}


def _added(forced: Forced, name: str) -> str:
    return f"{forced.open}{name}{forced.after_name}" if name else forced.open


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments that are no JSON object stay a text."""
    function = dict(call["function"])
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        function["arguments"] = arguments
    return {**call, "function": function}

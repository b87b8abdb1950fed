"""Reads the tool calls of one region as it comes, in the form in which OpenAI streams them."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import regex
from transformers.utils.chat_parsing.content_parsers import parse_content, process_field
from transformers.utils.chat_parsing.response_templates import ResponseTemplateField

from serve_app.text.answers.argument_types import typed
from serve_app.text.answers.json_object import JsonObject
from serve_app.text.answers.python_calls import python_calls

Part = tuple[str | None, str]
"""The name of a function whose call begins, or None; and more of the arguments, as JSON."""
Parameters = Mapping[str, Mapping[str, Any]]
"""The schema of the parameters of each function that may be called."""
_LONGEST_HEAD = 1024
_HALF = re.compile("[\ud800-\udfff]")
_HEAD = re.compile(
    r'(?:[\s\[,;]|<\|python_tag\|>)*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?'
    r'"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_LONGEST_S = 0.05
"""Processor time of one search for tags."""
_UNREADABLE = (
    AttributeError,
    KeyError,
    RecursionError,
    TimeoutError,
    TypeError,
    ValueError,
)


class Unreadable(Exception):
    """A region that should be a call is none. Nothing of it was told."""


class CallReader(Protocol):
    """One region. num_ended: calls of it that have ended."""

    num_ended: int

    def feed(self, text: str) -> list[Part]: ...

    def close(self) -> list[Part]:
        """The region has ended. Raises Unreadable."""
        ...


def reader_of(
    field: ResponseTemplateField, captures: Mapping[str, str], tools: Parameters
) -> CallReader:
    """Arguments that are JSON as they stand are told as they come, tags one by one, and others
    when they are whole.
    """
    whole = WholeCalls(field, captures, tools)
    is_json = field.content == "json" and not set(field.content_args) - {"allow_non_json"}
    is_tagged = field.content == "xml-inline"
    function = field.transform.get("function") if isinstance(field.transform, dict) else None
    if is_json and function in ("{content}", {"name": "{name}", "arguments": "{arguments}"}):
        return JsonCalls(whole)
    if isinstance(function, dict) and function.get("arguments") == "{content}":
        named = function.get("name", "")
        name = (captures.get(named[1:-1], "") if named.startswith("{") else named).strip()
        if name and is_json:
            return JsonArguments(name, whole)
        if name and is_tagged:
            return TaggedArguments(name, Tags(field, tools.get(name, {})))
    return whole


class WholeCalls:
    """Tells all calls of a region when it ends."""

    def __init__(
        self, field: ResponseTemplateField, captures: Mapping[str, str], tools: Parameters
    ) -> None:
        self._field = field
        self._captures = dict(captures)
        self._tools = tools
        self._text: list[str] = []
        self.num_ended = 0

    @property
    def text(self) -> str:
        return "".join(self._text)

    def feed(self, text: str) -> list[Part]:
        self._text.append(text)
        return []

    def close(self) -> list[Part]:
        return self.after(0)

    def after(self, told: int) -> list[Part]:
        """Without the first calls, which were told."""
        try:
            found = list(_functions(self._value()))[told:]
        except _UNREADABLE as error:
            raise Unreadable from error
        self.num_ended += len(found)
        return [part for name, arguments in found for part in ((name, ""), (None, arguments))]

    def _value(self) -> Any:
        if self._field.content != "xml-inline":
            return process_field(self.text, self._field, self._captures)
        value: Any = process_field("", self._field, self._captures)
        tags = Tags(self._field, self._tools.get(str(value["function"]["name"]).strip(), {}))
        value["function"]["arguments"] = _first_ones(tags.of(self.text))
        return value


def _first_ones(tags: Iterator[tuple[int, str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _, key, value in tags:
        found.setdefault(key, value)
    return found


class Tags:
    """Arguments that are tags, with the types that the function's schema asks for."""

    def __init__(self, field: ResponseTemplateField, schema: Mapping[str, Any]) -> None:
        self._how = field.content_args
        self._pattern = regex.compile(self._how["tag_pattern"], regex.DOTALL)
        self._schema = schema

    def of(self, text: str) -> Iterator[tuple[int, str, Any]]:
        """Where each tag ends, its key and its value. A key may come again."""
        properties = self._schema.get("properties")
        named = properties if isinstance(properties, Mapping) else {}
        others = self._schema.get("additionalProperties")
        parser = self._how.get("value_parser")
        for tag in self._pattern.finditer(text, timeout=_LONGEST_S):
            key, value = tag["key"], tag["value"]
            if parser is None:
                yield tag.end(), key, typed(value, named.get(key, others), self._schema)
            else:
                kind, arguments = parser.get("name", "text"), parser.get("args", {})
                yield tag.end(), key, parse_content(value, kind, arguments)


class TaggedArguments:
    """One call, whose name stands before the region, and whose arguments are tags: each is told
    when it is whole. What takes too long to search, as many tags are open, is not.
    """

    def __init__(self, name: str, tags: Tags) -> None:
        self._name = name
        self._tags = tags
        self._unread: list[str] = []
        self._length = 0
        self._look_at = 0
        self._told: set[str] = set()
        self._is_hopeless = False
        self.num_ended = 0

    def feed(self, text: str) -> list[Part]:
        """Looks for a tag's end whenever what is open has grown by an eighth, as a look costs its
        length.
        """
        self._unread.append(text)
        self._length += len(text)
        if self._is_hopeless or self._length < self._look_at:
            return []
        try:
            return self._whole_ones()
        except TimeoutError:
            self._is_hopeless = True
            return []

    def _whole_ones(self) -> list[Part]:
        parts: list[Part] = []
        text, read = "".join(self._unread), 0
        for end, key, value in self._tags.of(text):
            read = end
            if key in self._told:
                continue
            if not self._told:
                parts.append((self._name, ""))
            before = ", " if self._told else "{"
            self._told.add(key)
            parts.append((None, before + written({key: value})[1:-1]))
        self._unread, self._length = [text[read:]], len(text) - read
        self._look_at = self._length + max(16, self._length // 8)
        return parts

    def close(self) -> list[Part]:
        self._look_at = 0
        parts = self.feed("")
        if self._is_hopeless and not self._told:
            raise Unreadable
        self.num_ended = 1
        if self._told:
            return [*parts, (None, "}")]
        return [(self._name, ""), (None, "{}")]


class JsonArguments:
    """One call, whose name stands before the region, and whose arguments are all of it."""

    def __init__(self, name: str, whole: WholeCalls) -> None:
        self._name = name
        self._whole = whole
        self._object = JsonObject()
        self._has_begun = False
        self._is_usual = True
        self.num_ended = 0

    def feed(self, text: str) -> list[Part]:
        self._whole.feed(text)
        if self._object.ended or not self._is_usual:
            return []
        if not self._has_begun:
            text = text.lstrip()
            self._is_usual = not text or text.startswith("{")
            if not text or not self._is_usual:
                return []
        taken = text[: self._object.take(text)]
        self.num_ended = int(self._object.ended)
        if self._has_begun:
            return [(None, taken)]
        self._has_begun = True
        return [(self._name, ""), (None, taken)]

    def close(self) -> list[Part]:
        if self._has_begun:
            self.num_ended = 1
            return []
        if not self._whole.text.strip():
            self.num_ended = 1
            return [(self._name, ""), (None, "{}")]
        parts = self._whole.close()
        self.num_ended = self._whole.num_ended
        return parts


class JsonCalls:
    """Objects with a name and arguments: one, or a list of them."""

    def __init__(self, whole: WholeCalls) -> None:
        self._whole = whole
        self._rest = ""
        self._is_usual = True
        self._arguments: JsonObject | None = None
        self._call: JsonObject | None = None
        self._num_told = 0
        self.num_ended = 0

    def feed(self, text: str) -> list[Part]:
        self._whole.feed(text)
        if not self._is_usual:
            return []
        self._rest += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        return parts

    def _step(self, parts: list[Part]) -> bool:
        """Whether there may be more in what has come."""
        if self._arguments is not None:
            taken = self._take(self._arguments)
            if taken:
                parts.append((None, taken))
            if self._arguments.ended:
                self._arguments, self._call = None, JsonObject(begun=1)
        elif self._call is not None:
            self._take(self._call)
            if self._call.ended:
                self._call = None
                self.num_ended += 1
        else:
            return self._begin(parts)
        return bool(self._rest)

    def _take(self, part: JsonObject) -> str:
        end = part.take(self._rest)
        taken, self._rest = self._rest[:end], self._rest[end:]
        return taken

    def _begin(self, parts: list[Part]) -> bool:
        head = _HEAD.match(self._rest)
        if head is None or head.end() > _LONGEST_HEAD:
            self._is_usual = len(self._rest) <= _LONGEST_HEAD
            return False
        try:
            name = json.loads(head[1])
        except ValueError:
            self._is_usual = False
            return False
        parts.append((name, ""))
        self._num_told += 1
        self._rest = self._rest[head.end() :]
        self._arguments = JsonObject()
        return True

    def close(self) -> list[Part]:
        if self._arguments is not None or self._call is not None:
            self.num_ended += 1
            return []
        try:
            parts = self._whole.after(self._num_told)
        except Unreadable:
            if self._num_told:
                return []
            raise
        self.num_ended += self._whole.num_ended
        return parts


def _functions(value: Any) -> Iterator[tuple[str, str]]:
    """Names and arguments, as JSON. A text is calls of Python. Raises ValueError for what is no
    call.
    """
    if isinstance(value, list):
        for each in value:
            yield from _functions(each)
        return
    function = value.get("function", value) if isinstance(value, dict) else None
    if isinstance(function, str):
        yield from ((name, written(arguments)) for name, arguments in python_calls(function))
        return
    if isinstance(function, list):
        yield from _functions(function)
        return
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(function, dict) or not isinstance(name, str) or not name.strip():
        raise ValueError("a call has no name")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise ValueError("arguments are no object")
    yield name.strip(), written(arguments)


def written(value: Any) -> str:
    """As JSON that can be sent: half of a surrogate pair stays an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return text if _HALF.search(text) is None else json.dumps(value)

"""The tools that a request offers, and which of them the answer must call."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from serve_app.protocol.errors import bad_request

_WORDS = ("none", "auto", "required")
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Function(_Strict):
    """strict: whether arguments obey the parameters though the model decides to call it. Where a
    call is required, they always do. Both where the model writes them as JSON.
    """

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it, in the order in which models have seen it."""
        function: dict[str, Any] = {"name": self.function.name}
        if self.function.description is not None:
            function["description"] = self.function.description
        function["parameters"] = self.function.parameters or _NO_PARAMETERS
        return {"type": "function", "function": function}


class NamedFunction(_Strict):
    name: FunctionName


class NamedTool(_Strict):
    type: Literal["function"]
    function: NamedFunction


def _chosen(value: object) -> object:
    """One message for whatever it is instead; pydantic would have one for each alternative."""
    is_word = isinstance(value, str) and value in _WORDS
    is_named = isinstance(value, Mapping) and isinstance(value.get("function"), Mapping)
    if not (is_word or is_named):
        raise ValueError(
            "must be 'none', 'auto', 'required' or"
            ' {"type": "function", "function": {"name": "…"}}'
        )
    return value


def _called(value: object) -> object:
    if value not in ("none", "auto") and not isinstance(value, Mapping):
        raise ValueError("must be 'none', 'auto' or {\"name\": \"…\"}")
    return value


ToolChoice = Annotated[Literal["none", "auto", "required"] | NamedTool, BeforeValidator(_chosen)]
FunctionCall = Annotated[Literal["none", "auto"] | NamedFunction, BeforeValidator(_called)]


def without_twins(tools: list[Tool]) -> list[Tool]:
    """Raises ProtocolError if two functions have one name."""
    _check_names([tool.function.name for tool in tools], "tools[{}].function.name")
    return tools


def no_function_twice(functions: list[Function]) -> list[Function]:
    """Raises ProtocolError if two functions have one name."""
    _check_names([function.name for function in functions], "functions[{}].name")
    return functions


def _check_names(names: Sequence[str], path: str) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            where = path.format(index)
            raise bad_request(f"Invalid '{where}': there is another function '{name}'", where)


def check_choice(choice: ToolChoice | None, tools: Sequence[Tool]) -> None:
    """Raises ProtocolError 400 if what must be called is not offered."""
    if choice in (None, "none", "auto"):
        return
    if not tools:
        raise bad_request("'tool_choice' is only allowed when 'tools' are given", "tool_choice")
    if isinstance(choice, NamedTool):
        names = [tool.function.name for tool in tools]
        _check_named(choice.function.name, names, "tool_choice", "tools")


def check_call(call: FunctionCall | None, functions: Sequence[Function]) -> None:
    """Raises ProtocolError 400 if what must be called is not offered."""
    if not isinstance(call, NamedFunction):
        return
    names = [function.name for function in functions]
    _check_named(call.name, names, "function_call", "functions")


def _check_named(name: str, names: Sequence[str], param: str, offered: str) -> None:
    if name not in names:
        raise bad_request(
            f"Invalid '{param}': no function of '{offered}' is called '{name}'", param
        )


def forced_by(choice: ToolChoice | None) -> str | None:
    """The function that the answer must call: empty for any of them, None if none must be."""
    if isinstance(choice, NamedTool):
        return choice.function.name
    return "" if choice == "required" else None

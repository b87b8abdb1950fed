"""The tools of a request for a response, and which of them the answer must call."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from serve_app.api.requests.offered_tools import FunctionName
from serve_app.protocol.errors import bad_request, unsupported

_WORDS = ("none", "auto", "required")
_FUNCTION, _ALLOWED = "function", "allowed_tools"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ResponseTool(_Strict):
    """A function. strict: as in chats."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: Literal[False] | None = None

    def for_chat(self) -> dict[str, Any]:
        given = self.model_dump(exclude={"type", "defer_loading"}, exclude_none=True)
        return {"type": _FUNCTION, "function": given}

    def shown(self) -> dict[str, Any]:
        """As the answer repeats it."""
        return {
            "type": self.type,
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": bool(self.strict),
        }


class ResponseFunction(_Strict):
    type: Literal["function"]
    name: FunctionName


class AllowedTools(_Strict):
    """Of the tools, only these are offered."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[ResponseFunction]


def _only_functions(value: object) -> object:
    """Raises ProtocolError 400 for tools that OpenAI would run itself."""
    for index, tool in enumerate(value if isinstance(value, list) else ()):
        _check_kind(tool, f"tools[{index}]")
    return value


def _chosen(value: object) -> object:
    """One message for whatever it is instead; pydantic would have one for each alternative."""
    if isinstance(value, str) and value in _WORDS:
        return value
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == _ALLOWED:
        return value
    if not isinstance(kind, str):
        raise ValueError(
            'must be \'none\', \'auto\', \'required\', {"type": "function", "name": "…"} or'
            ' {"type": "allowed_tools", …}'
        )
    _check_kind(value, "tool_choice")
    return value


def _check_kind(tool: object, where: str) -> None:
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    if isinstance(kind, str) and kind != _FUNCTION:
        where = f"{where}.type"
        message = f"'{where}': '{kind}' is not supported here, only functions that the client runs"
        raise unsupported(where, message)


def _without_twins(tools: list[ResponseTool]) -> list[ResponseTool]:
    """Raises ProtocolError 400 if two functions have one name."""
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            where = f"tools[{index}].name"
            raise bad_request(f"Invalid '{where}': there is another function '{name}'", where)
    return tools


OfferedTools = Annotated[
    list[ResponseTool], BeforeValidator(_only_functions), AfterValidator(_without_twins)
]
ToolChoice = Annotated[
    Literal["none", "auto", "required"] | ResponseFunction | AllowedTools, BeforeValidator(_chosen)
]


def chosen_of(
    choice: ToolChoice | None, tools: Sequence[ResponseTool]
) -> tuple[object, list[ResponseTool]]:
    """What a chat has as `tool_choice`, and the tools that it offers.

    Raises ProtocolError 400 if a function that is named is not among the tools.
    """
    if isinstance(choice, ResponseFunction):
        _find([choice], tools)
        return {"type": _FUNCTION, "function": {"name": choice.name}}, list(tools)
    if isinstance(choice, AllowedTools):
        return choice.mode, _find(choice.tools, tools)
    return choice, list(tools)


def _find(named: Sequence[ResponseFunction], tools: Sequence[ResponseTool]) -> list[ResponseTool]:
    known = {tool.name for tool in tools}
    for each in named:
        if each.name not in known:
            message = f"Invalid 'tool_choice': no function of 'tools' is called '{each.name}'"
            raise bad_request(message, "tool_choice")
    wanted = {each.name for each in named}
    return [tool for tool in tools if tool.name in wanted]

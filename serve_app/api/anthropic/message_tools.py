"""The tools of Anthropic's protocol, and which of them must be called, as those of a chat."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from serve_app.api.requests.offered_tools import FunctionName
from serve_app.protocol.errors import unsupported


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CustomTool(_Strict):
    """A tool that the client runs. strict: as a chat's."""

    name: FunctionName
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    strict: bool | None = None

    cache_control: Any = None
    eager_input_streaming: Any = None
    """Arguments are always streamed as they are written."""
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: Literal[False] | None = None

    def for_chat(self) -> dict[str, Any]:
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.input_schema,
            "strict": self.strict,
        }
        return {"type": "function", "function": function}


def _run_by_clients(value: object) -> object:
    """Raises ProtocolError 400 for tools that Anthropic's servers would run, or would know."""
    for index, tool in enumerate(value if isinstance(value, list) else ()):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if isinstance(kind, str) and kind != "custom":
            where = f"tools[{index}]"
            message = f"'{where}': tools of type '{kind}' are not supported here, only 'custom'"
            raise unsupported(where, message)
    return value


OfferedTools = Annotated[list[CustomTool], BeforeValidator(_run_by_clients)]


class ToolChoice(_Strict):
    """name: of the tool, for the type `tool` alone."""

    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool | None = None

    def for_chat(self) -> str | dict[str, Any]:
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name}}
        return {"auto": "auto", "any": "required", "none": "none"}[self.type]

    @model_validator(mode="after")
    def _tools_are_named(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            raise ValueError("must have a 'name' if its type is 'tool', and only then")
        return self

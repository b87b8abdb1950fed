"""What an answer is to obey, as OpenAI and vLLM ask for it: checked, and as a job has it."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from serve_app.protocol.errors import bad_request
from serve_app.protocol.messages import Constraint

_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_FORMATS = ("text", "json_object", "json_schema")


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _schema(value: object) -> object:
    """An object, or its text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (RecursionError, ValueError):
        raise ValueError("is no JSON") from None


_Schema = Annotated[
    dict[str, Any] | bool,
    BeforeValidator(_schema),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "boolean"}, {"type": "string"}]}),
]


class JsonSchema(_Checked):
    """strict: makes no difference, as every schema is obeyed."""

    name: Annotated[str, Field(max_length=64)] | None = None
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema", default_factory=dict)
    strict: bool | None = None


class ResponseFormat(_Checked):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_what_its_type_needs(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("'json_schema' goes with the type 'json_schema', and with no other")
        return self


class StructuredOutputs(_Checked):
    """Exactly one."""

    json_: _Schema | None = Field(alias="json", default=None)
    regex: Annotated[str, Field(min_length=1)] | None = None
    choice: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    grammar: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = (self.json_, self.regex, self.choice, self.grammar)
        if sum(each is not None for each in given) != 1:
            raise ValueError("must have exactly one of json, regex, choice and grammar")
        return self

    def constraint(self) -> Constraint:
        param = "structured_outputs"
        if self.regex is not None:
            return {"kind": "regex", "value": self.regex, "param": f"{param}.regex"}
        if self.choice is not None:
            return {"kind": "choice", "value": self.choice, "param": f"{param}.choice"}
        if self.grammar is not None:
            return {"kind": "grammar", "value": self.grammar, "param": f"{param}.grammar"}
        return {"kind": "json", "value": self.json_, "param": f"{param}.json"}


def json_constraint(schema: dict[str, Any] | None, param: str) -> Constraint:
    """JSON that obeys a schema; None: any object. param: the field that it came in."""
    return {"kind": "json", "value": _ANY_OBJECT if schema is None else schema, "param": param}


def constraint_of(
    response_format: ResponseFormat | None, structured: StructuredOutputs | None
) -> Constraint | None:
    """Raises ProtocolError 400 if both ask for something."""
    asked = response_format is not None and response_format.type != "text"
    if structured is not None:
        if asked:
            raise bad_request(
                "Give either 'response_format' or 'structured_outputs', not both",
                "structured_outputs",
            )
        return structured.constraint()
    if response_format is None or not asked:
        return None
    if response_format.json_schema is None:
        return json_constraint(None, "response_format")
    return json_constraint(response_format.json_schema.schema_, "response_format")

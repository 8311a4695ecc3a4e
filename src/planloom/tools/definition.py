"""What planners want to know of a tool, as values that can be written down: parameters, examples, cost, domain.

Rule 1: a definition holds no function; `tools/catalogue.py` says which tools can be called.
Rule 2: `input_schema` is what counts; `parameters` is the same in short, and each is made from the other.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from planloom.errors import ConfigError
from planloom.plan.flow import Labels
from planloom.plan.policy import Effects
from planloom.tools.json_schema import JsonSchema
from planloom.tools.labels import SourceLabels
from planloom.tools.names import check_name

ToolType = Literal["mcp", "function", "code_exec", "agent", "tool"]
TOOL_TYPES: tuple[str, ...] = get_args(ToolType)
ParameterType = Literal["string", "number", "integer", "boolean", "object", "array", "null", "any"]
GENERAL = "general"
"""Domain of a tool that names none, neither by itself nor by the first part of its name."""

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ToolParameter(_Written):
    """One parameter in short.

    Attributes:
        type: Its JSON type; "any" where the schema allows several or does not say.
        default: What holds if it is left out; None where it was not given, too.
    """

    name: str
    type: ParameterType = "string"
    description: str = ""
    required: bool = True
    default: Any = None
    enum: tuple[Any, ...] | None = None
    items: dict[str, Any] | None = None
    properties: dict[str, Any] | None = None

    def to_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of its value."""
        schema: dict[str, Any] = {} if self.type == "any" else {"type": self.type}
        if self.description:
            schema["description"] = self.description
        if self.enum is not None:
            schema["enum"] = list(self.enum)
        schema |= {name: value for name in ("items", "properties") if (value := getattr(self, name)) is not None}
        if not self.required and "default" in self.model_fields_set:
            schema["default"] = self.default
        return schema

    @classmethod
    def from_schema(cls, name: str, schema: Any, *, required: bool) -> ToolParameter:
        """Return what a property of a parameter schema says, in short."""
        said = schema if isinstance(schema, dict) else {}
        kind = said.get("type")
        known = isinstance(kind, str) and kind in get_args(ParameterType)
        given = {word: said[word] for word in ("description", "enum", "items", "properties", "default") if word in said}
        if not isinstance(given.get("items", {}), dict):
            del given["items"]  # `items: true` says nothing
        return cls(name=name, type=cast("Any", kind) if known else "any", required=required, **given)


class ToolExample(_Written):
    """One call of a tool, and what comes of it."""

    input: dict[str, Any] = Field(default_factory=dict)
    output: Any = None
    description: str = ""


class ToolMetadata(_Written):
    """What a call is expected to take; None where nobody knows.

    Attributes:
        cost_per_call: US dollars.
        expected_latency_ms: Milliseconds.
        success_rate: Share of calls that succeed, 0 to 1.
    """

    cost_per_call: Amount | None = None
    expected_latency_ms: Amount | None = None
    success_rate: Annotated[float, Field(ge=0, le=1)] | None = None


class ToolDefinition(_Written):
    """A tool, described.

    Attributes:
        type: What it is behind: a server (`mcp`), a Python function, code to run, an agent, or just a tool.
        parameters, input_schema: What it takes; give either, or neither for a tool without parameters.
        output_schema: JSON Schema of the result, or None.
        domain: What it is about; by default all of its name before the last dot.
        effects: What calling it again would do; None: it does not say.
        source, secret, sink, accepts, cleans, needs_approval: What passes through it, see `tools.tool.Tool`.

    Raises:
        ConfigError: A name no tool can have, schemas that are none, or examples and parameters that do not fit them.
    """

    name: str
    type: ToolType = "function"
    description: str = ""
    parameters: tuple[ToolParameter, ...] = ()
    input_schema: dict[str, Any] = Field(default_factory=dict)
    output_schema: dict[str, Any] | None = None
    metadata: ToolMetadata = ToolMetadata()
    domain: str = ""
    version: str = "1"
    examples: tuple[ToolExample, ...] = ()
    effects: Effects | None = None
    source: SourceLabels = ()
    secret: bool = False
    sink: bool | None = None
    accepts: Labels = ()
    cleans: Labels = ()
    needs_approval: bool = False

    @field_validator("name")
    @classmethod
    def _can_be_a_name(cls, name: str) -> str:
        check_name(name)
        return name

    @model_validator(mode="after")
    def _complete(self) -> ToolDefinition:
        if not self.input_schema:
            self.__dict__["input_schema"] = schema_of(self.parameters)
        compiled = JsonSchema(self.input_schema, where=f"the parameter schema of tool {self.name!r}")
        if not self.parameters:
            self.__dict__["parameters"] = parameters_of(self.input_schema)
        if not self.domain:
            self.__dict__["domain"] = domain_of(self.name)
        self._check(compiled)
        return self

    def _check(self, compiled: JsonSchema) -> None:
        if self.input_schema.get("type", "object") != "object":
            raise ConfigError(f"the parameters of tool {self.name!r} are not an object", remedy='give "type": "object"')
        if self.output_schema is not None:
            JsonSchema(self.output_schema, where=f"the output schema of tool {self.name!r}")
        named = {parameter.name for parameter in self.parameters}
        if named != self.input_schema.get("properties", {}).keys():
            raise ConfigError(
                f"parameters and input_schema of tool {self.name!r} name different parameters",
                remedy="give one of them, the other is made from it",
            )
        for example in self.examples:
            found = compiled.problems(example.input)
            if found:
                raise ConfigError(
                    f"an example of tool {self.name!r} does not fit its parameters: {found[0].problem}",
                    remedy="a model does what the example shows: mend or remove it",
                )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON, short: without what the rest says already."""
        told = self.model_dump(mode="json", exclude_defaults=True)
        twice = "input_schema" if self.input_schema == schema_of(self.parameters) else "parameters"
        told.pop(twice, None)
        if self.domain == domain_of(self.name):
            told.pop("domain", None)
        if "parameters" in told:
            told["parameters"] = [one.model_dump(mode="json", exclude_unset=True) for one in self.parameters]
        return told


def schema_of(parameters: tuple[ToolParameter, ...]) -> dict[str, Any]:
    """Return the JSON Schema of an object of these, and of nothing else."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {parameter.name: parameter.to_schema() for parameter in parameters},
        "additionalProperties": False,
    }
    required = [parameter.name for parameter in parameters if parameter.required]
    return schema | {"required": required} if required else schema


def parameters_of(schema: dict[str, Any]) -> tuple[ToolParameter, ...]:
    """Return the properties of a parameter schema in short."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return ()
    required = set(schema.get("required") or ())
    return tuple(
        ToolParameter.from_schema(name, inner, required=name in required) for name, inner in properties.items()
    )


def domain_of(name: str) -> str:
    """Return what a tool is about by its name: ``mail.send`` is about mail."""
    return name.rpartition(".")[0] or GENERAL

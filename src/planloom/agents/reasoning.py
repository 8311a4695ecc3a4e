"""Reasoner: what a reasoning agent is made of. A value: it keeps nothing from one task to the next.

Rule 1: what changes how it works is in its digest, so that a run can tell whether its agent is still the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

from planloom.errors import ConfigError
from planloom.models.llm import LLM
from planloom.tools.json_schema import JsonSchema

if TYPE_CHECKING:
    from planloom.ports import Model
    from planloom.tools.registry import ToolRegistry

MAX_ITERATIONS = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reasoner:
    """An agent that reasons: it plans tasks, does them with its tools, and sees whether that is enough.

    Attributes:
        name: What plans call it, where it is registered under no other name.
        model: An `LLM`, an address, any `ports.Model`, or the plain name of one of the engine's models.
        tools: What it may call; None: what the step names of the engine's tools. No step can give it more.
        system: Told to its model before everything else.
        max_iterations: Times it may plan and do tasks before it has to stop.
        temperature: Of every call of its model; None: the model's own default.
        max_tokens: Most tokens of each answer of its model; None: the model's own limit.
        options: Of its model's provider, in every call; see `core.chat.ModelCall`.
        input_schema: JSON Schema that what it is given must fit, or None.
        output_schema: JSON Schema that its result must fit; None: text, or what its one tool gave.
        if_incomplete: What a task that it could not complete comes to: an "error", or whatever "answer" there is.
    """

    name: str
    model: LLM | Model | str = "default"
    tools: ToolRegistry | None = None
    system: str | None = None
    max_iterations: int = MAX_ITERATIONS
    temperature: float | None = None
    max_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    description: str = ""
    if_incomplete: Literal["error", "answer"] = "error"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(f"{self.name!r} is no name of an agent", remedy='give a name, e.g. "researcher"')
        for name, least in (("max_iterations", 1), ("max_tokens", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(
                    f"{name}={value!r} of agent {self.name!r} is no whole number from {least} on", remedy="mend it"
                )
        heat = self.temperature
        if heat is not None and (isinstance(heat, bool) or not isinstance(heat, int | float) or not 0 <= heat <= 2):
            raise ConfigError(f"temperature={heat!r} of agent {self.name!r}", remedy="give a number from 0 to 2")
        for name in ("input_schema", "output_schema"):
            schema = getattr(self, name)
            if schema is not None:
                JsonSchema(schema, where=f"the {name} of agent {self.name!r}")

    @property
    def digest(self) -> str:
        """Return the SHA-256 of everything that decides how it works, 64 hex digits."""
        told = {
            "model": _model_text(self.model),
            "tools": None if self.tools is None else sorted([one.name, one.digest] for one in self.tools),
            "options": dict(self.options),
            "schemas": [self.input_schema, self.output_schema],
            "rest": [self.system, self.max_iterations, self.temperature, self.max_tokens, self.if_incomplete],
        }
        return sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _model_text(model: LLM | Model | str) -> str:
    if isinstance(model, str):
        return model
    if isinstance(model, LLM):
        return str(model.uri)
    known = model.metadata
    return f"{known.provider} {known.name} {known.version}"

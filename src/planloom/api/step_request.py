"""What an agent is given: a request that was looked at first, and a memory of its own.

Rule 1: what bounds a request is its size and its schema. The look for injected instructions is a guess by patterns: it
is off unless asked for, and no substitute for an allowlist.
Rule 2: the caller's memory is never changed, nor shared.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic import ValidationError as ModelProblems

from planloom.agents.memory import AgentMemory
from planloom.agents.roster import definition_of
from planloom.core.asking import text_of
from planloom.core.chat import Message
from planloom.errors import OutputError, SecurityError, ValidationError, field_problems
from planloom.plan.values import as_json
from planloom.tools.json_schema import JsonSchema

_log = logging.getLogger("planloom.steps")

MAX_REQUEST_BYTES = 1_000_000
SUSPECTED = "suspected_injection"
"""Key of an agent's metadata under which it is told which patterns its request holds."""
Injection = Literal["off", "flag", "block"]

_PATTERNS = {
    "ignore_instructions": r"\b(ignore|disregard|forget|override)\b.{0,40}\b(previous|prior|above|earlier|all|your)\b"
    r".{0,40}\b(instructions?|rules?|prompts?|directions?)\b",
    "new_role": r"\byou are (now|no longer)\b|\bact as (if you were )?(an? )?(unrestricted|jailbroken|dan)\b",
    "reveal_prompt": r"\b(reveal|print|repeat|show|leak)\b.{0,40}\b(system|hidden|initial)\b.{0,20}\bprompt\b",
    "role_marker": r"<\|(im_start|system|assistant)\|>|\[/?INST\]|^\s*(system|assistant)\s*:",
}
_COMPILED = {name: re.compile(text, re.IGNORECASE | re.MULTILINE) for name, text in _PATTERNS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRules:
    """What a request must keep to.

    Attributes:
        max_bytes: Of its text, or of its JSON, in UTF-8.
        injection: "flag" tells the agent and the log what looks like an injected instruction, "block" refuses it.
    """

    max_bytes: int = MAX_REQUEST_BYTES
    injection: Injection = "off"

    def checked(self, request: Any, agent_name: str, agent: Any) -> tuple[Any, tuple[str, ...]]:
        """Return the request as JSON, and the names of the patterns it holds.

        Raises:
            ValidationError: It is no JSON, too large, or does not fit the agent's `input_schema`.
            SecurityError: It holds a pattern, and such are to be refused.
        """
        told = self._told(request)
        _check_schema(told, agent_name, agent)
        if self.injection == "off":
            return told, ()
        found = suspicious(told)
        if found and self.injection == "block":
            raise SecurityError(
                f"the request to agent {agent_name!r} looks like an injected instruction: {', '.join(found)}",
                remedy="this is a guess by patterns: reword the request, or set injection='flag'",
            )
        if found:
            _log.warning("request to agent %r may hold injected instructions: %s", agent_name, ", ".join(found))
        return told, found

    def _told(self, request: Any) -> Any:
        try:
            told = as_json(request, where="request")
        except OutputError as error:
            raise ValidationError(error.message, remedy="give text, or what has a JSON form") from error
        text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
        size_bytes = len(text.encode())
        if size_bytes > self.max_bytes:
            raise ValidationError(
                f"the request is too large: {size_bytes:,} bytes, and at most {self.max_bytes:,} are taken",
                remedy="give less, or raise max_request_bytes",
            )
        return told


def suspicious(request: Any) -> tuple[str, ...]:
    """Return the names of the patterns of injected instructions that the texts of a request hold."""
    text = text_of(request)
    return tuple(name for name, pattern in _COMPILED.items() if pattern.search(text))


def prepared_memory(
    memory: AgentMemory | Iterable[Any] | None, request: Any, metadata: Mapping[str, Any]
) -> AgentMemory:
    """Return what an agent knows: the caller's memory, who asks, and what tools came to, in this order.

    Args:
        metadata: `from_agent` names who asks; `tool_results` are added in their order.

    Raises:
        ValidationError: `memory` or a tool result is none.
    """
    if memory is None:
        own = AgentMemory()
    elif isinstance(memory, AgentMemory):
        own = memory.copy()
    elif isinstance(memory, Iterable) and not isinstance(memory, str | bytes | Mapping):
        own = AgentMemory(memory)
    else:
        raise ValidationError(f"a {type(memory).__name__} is no memory", remedy="give an AgentMemory")
    if metadata.get("from_agent"):
        own.add_message(Message("system", f"Request from {metadata['from_agent']}: {text_of(request)}"))
    results = metadata.get("tool_results") or ()
    if isinstance(results, str | bytes | Mapping) or not isinstance(results, Iterable):
        raise ValidationError("metadata['tool_results'] is no list", remedy="give what execute_tool_calls returned")
    for result in results:
        call_id = result.get("tool_call_id") if isinstance(result, Mapping) else None
        own.add_tool_result(result, tool_call_id=call_id if isinstance(call_id, str) else None)
    return own


def as_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a caller's metadata as JSON, a copy.

    Raises:
        ValidationError: It is none.
    """
    try:
        told = as_json(metadata or {}, where="metadata")
    except OutputError as error:
        raise ValidationError(error.message, remedy="give what has a JSON form") from error
    if not isinstance(told, dict):
        raise ValidationError(f"metadata is a {type(metadata).__name__}", remedy="give a dict")
    return told


def _check_schema(request: Any, agent_name: str, agent: Any) -> None:
    definition = definition_of(agent)
    schema = getattr(agent if definition is None else definition, "input_schema", None)
    problems: list[str] = []
    if isinstance(schema, dict):
        found = JsonSchema(schema, where=f"the input schema of agent {agent_name!r}").problems(request)
        problems = [f"{'.'.join(map(str, one.path)) or 'it'}: {one.problem}" for one in found]
    elif isinstance(schema, type) and issubclass(schema, BaseModel):
        try:
            schema.model_validate(request)
        except ModelProblems as error:
            problems = field_problems(error)
    if problems:
        raise ValidationError(
            f"the request does not fit the input schema of agent {agent_name!r}: {'; '.join(problems)}",
            remedy="give what the schema asks for",
        )

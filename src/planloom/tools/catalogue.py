"""ToolCatalog: the tools of a registry with what planners want to know of them, and tools that are only described.

Rule 1: there is one registry: a catalogue holds one and adds words to it; what can be called is in `.registry`.
Rule 2: a name means one tool, whether it can be called or is only described.
Rule 3: a catalogue that is read from YAML names no code: functions come from whoever reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import is_
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from planloom.context.vectors import Embed
from planloom.errors import ConfigError, PlanSyntaxError, UnknownToolError, field_problems, suggestion
from planloom.plan.yaml_text import read_yaml
from planloom.tools.definition import (
    TOOL_TYPES,
    ToolDefinition,
    ToolMetadata,
    domain_of,
    parameters_of,
)
from planloom.tools.labels import FLOW_OPTIONS
from planloom.tools.names import NAMESPACES
from planloom.tools.registry import ToolRegistry, llm_name
from planloom.tools.search import ToolIndex
from planloom.tools.tool import Tool

FORMAT_VERSION = 1


class ToolCatalog:
    """Tools by name, described."""

    def __init__(
        self, tools: Iterable[Any] = (), *, registry: ToolRegistry | None = None, embed: Embed | None = None
    ) -> None:
        """Hold these tools.

        Args:
            tools: Each a function, a `Tool`, a `ToolDefinition`, or a dict that is one.
            registry: Where those that can be called are kept; None: a new one.
            embed: Gives vectors for texts, so that `search` finds what is meant in other words, too.

        Raises:
            ConfigError: Two claim one name, or one that is no tool.
        """
        self.registry = registry if registry is not None else ToolRegistry()
        self._embed = embed
        self._described: dict[str, ToolDefinition] = {}
        """What cannot be called, by name."""
        self._read: dict[str, tuple[Tool, ToolDefinition]] = {}
        """What is known of tools of the registry, by name."""
        self._index: ToolIndex | None = None
        for one in tools:
            self.add_tool(one)

    @classmethod
    def of(cls, source: Any = None) -> ToolCatalog:
        """Return a catalogue of whatever a caller gives as tools: a catalogue (itself), a list in which some are only
        described, or what `ToolRegistry.of` takes."""
        if isinstance(source, ToolCatalog):
            return source
        if isinstance(source, list | tuple):
            return cls(source)
        return cls(registry=ToolRegistry.of(source))

    def add_tool(
        self, tool: Any, function: Callable[..., Any] | None = None, *, replace: bool = False, **declared: Any
    ) -> ToolDefinition:
        """Add a tool and return its definition.

        Args:
            tool: A function with what it declares (see `tool`), a `Tool`, a `ToolDefinition` or a dict that is one.
            function: What a definition describes; without it the tool is described only.
            replace: Whether it may take the place of another of its name.

        Raises:
            ConfigError: The name is taken, the registry is frozen, or this is no tool.
        """
        if isinstance(tool, Mapping):
            tool = _definition(tool)
        if not isinstance(tool, ToolDefinition):
            made = self.registry.add(tool, replace=replace, **declared)
            return self._shown(made)
        if function is None:
            return self._describe(tool, replace=replace)
        made = self.registry.add(as_tool(tool, function), replace=replace)
        return self._shown(made)

    def _describe(self, definition: ToolDefinition, *, replace: bool) -> ToolDefinition:
        if self.registry.resolve(definition.name) is not None or (definition.name in self._described and not replace):
            raise ConfigError(
                f"there is a tool {definition.name!r} already", remedy="give one of them another name, or replace=True"
            )
        self._described[definition.name] = definition
        return definition

    def _shown(self, tool: Tool) -> ToolDefinition:
        known = self._read.get(tool.name)
        if known is None or known[0] is not tool:
            known = self._read[tool.name] = tool, definition_of(tool)
        return known[1]

    def definitions(self) -> list[ToolDefinition]:
        """Return all definitions: of tools that can be called, in the registry's order, then of those that cannot."""
        found = [self._shown(tool) for tool in self.registry.tools()]
        return found + [one for name, one in self._described.items() if self.registry.resolve(name) is None]

    def __iter__(self) -> Iterator[ToolDefinition]:
        return iter(self.definitions())

    def __len__(self) -> int:
        return len(self.definitions())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self.registry or self._only_described(name) is not None)

    def names(self) -> list[str]:
        """Return the names of all tools, in the order of `definitions`."""
        return [one.name for one in self.definitions()]

    def get_tool(self, name: str) -> ToolDefinition:
        """Return a definition by any of the tool's names, as models spell them, too.

        Raises:
            UnknownToolError: No such tool.
            NotAllowedError: There is one, and it is not on the registry's allowlist.
        """
        if self.registry.resolve(name) is not None:
            return self._shown(self.registry.get(name))
        described = self._only_described(name)
        if described is None:
            raise UnknownToolError(
                f"there is no tool {name!r}",
                remedy=suggestion(name, self.names(), otherwise="add one: catalog.add_tool(…)"),
                tool=name,
            )
        return described

    def is_described_only(self, name: str) -> bool:
        """Return whether a tool has no function here; raises as `get_tool` does."""
        return self.registry.resolve(self.get_tool(name).name) is None

    def _only_described(self, name: str) -> ToolDefinition | None:
        bare = next((name.removeprefix(space) for space in NAMESPACES if name.startswith(space)), name)
        found = self._described.get(bare)
        return found or next((one for one in self._described.values() if llm_name(one.name) == bare), None)

    def get_by_type(self, kind: str) -> list[ToolDefinition]:
        """Return the tools of a type.

        Raises:
            ConfigError: There is no such type.
        """
        if kind not in TOOL_TYPES:
            raise ConfigError(f"there is no type {kind!r} of tools", remedy=f"use one of: {', '.join(TOOL_TYPES)}")
        return [one for one in self.definitions() if one.type == kind]

    def by_domain(self, domain: str) -> list[ToolDefinition]:
        """Return the tools that are about this."""
        return [one for one in self.definitions() if one.domain == domain]

    def domains(self) -> list[str]:
        """Return what the tools are about, sorted."""
        return sorted({one.domain for one in self.definitions()})

    def search(
        self, query: str, *, limit: int = 10, kind: str | None = None, domain: str | None = None
    ) -> list[tuple[ToolDefinition, float]]:
        """Return the tools that a task is about, best first, each with its score (see `ToolIndex.search`).

        Args:
            limit: Most tools to return.
            kind: Only tools of this type.
            domain: Only tools that are about this.
        """
        definitions = self.definitions()
        index = self._index
        if (
            index is None
            or len(index.definitions) != len(definitions)
            or not all(map(is_, index.definitions, definitions))
        ):
            index = self._index = ToolIndex(definitions, embed=self._embed)
        if kind is None and domain is None:
            return index.search(query, limit=limit)
        return index.search(
            query,
            limit=limit,
            keep=lambda one: (kind is None or one.type == kind) and (domain is None or one.domain == domain),
        )

    def to_llm_format(
        self, definitions: Iterable[ToolDefinition] | None = None, *, examples: bool = False
    ) -> list[dict[str, Any]]:
        """Return tools as model providers take them, each under a name they accept; `get_tool` takes that name back.

        Args:
            definitions: Which; None: all.
            examples: Whether the descriptions show the examples.
        """
        return [
            {
                "type": "function",
                "function": {
                    "name": llm_name(one.name),
                    "description": _with_examples(one) if examples else one.description,
                    "parameters": one.input_schema,
                },
            }
            for one in (self.definitions() if definitions is None else definitions)
        ]

    def to_yaml(self) -> str:
        """Return all definitions as YAML 1.2; functions stay here."""
        document = {"planloom_tools": FORMAT_VERSION, "tools": [one.to_dict() for one in self.definitions()]}
        return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)

    @classmethod
    def from_yaml(
        cls,
        source: str | Path,
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        embed: Embed | None = None,
    ) -> ToolCatalog:
        """Return the catalogue of a YAML text, or of a file if this is a `Path`.

        Args:
            functions: By name of the tool, what can be called; all others are described only.

        Raises:
            ConfigError: Not such a text, or a function for a tool that it does not name.
        """
        catalogue = cls(embed=embed)
        left = dict(functions or {})
        for given in _tools_of(source):
            definition = _definition(given)
            catalogue.add_tool(definition, left.pop(definition.name, None))
        if left:
            name = min(left)
            raise ConfigError(
                f"there is a function for {name!r}, and no such tool", remedy=suggestion(name, catalogue.names())
            )
        return catalogue


def definition_of(tool: Tool) -> ToolDefinition:
    """Return what a tool says of itself."""
    # Nothing is checked here: `Tool` has checked it all, and schemas are slow to check.
    return ToolDefinition.model_construct(
        name=tool.name,
        type=tool.type,
        description=tool.description,
        parameters=parameters_of(tool.schema),
        input_schema=tool.schema,
        output_schema=tool.output_schema,
        metadata=ToolMetadata(
            cost_per_call=tool.cost_per_call,
            expected_latency_ms=tool.expected_latency_ms,
            success_rate=tool.success_rate,
        ),
        domain=tool.domain or domain_of(tool.name),
        version=tool.version,
        examples=tool.examples,
        effects=tool.effects,
        **{name: getattr(tool, name) for name in FLOW_OPTIONS},
    )


def as_tool(definition: ToolDefinition, function: Callable[..., Any], **declared: Any) -> Tool:
    """Return the tool that a definition describes and a function does; `declared` comes before the definition."""
    said = {
        "description": definition.description,
        "effects": definition.effects,
        "version": definition.version,
        "output_schema": definition.output_schema,
        "cost_per_call": definition.metadata.cost_per_call,
        "expected_latency_ms": definition.metadata.expected_latency_ms,
        "success_rate": definition.metadata.success_rate,
        "type": definition.type,
        "domain": definition.domain,
        "examples": definition.examples,
        **{name: getattr(definition, name) for name in FLOW_OPTIONS},
    }
    return Tool.from_schema(definition.name, function, definition.input_schema, **said | declared)


def _definition(given: Any) -> ToolDefinition:
    try:
        return ToolDefinition.model_validate(given)
    except ValidationError as error:
        name = given.get("name") if isinstance(given, Mapping) else None
        told = "; ".join(field_problems(error))
        raise ConfigError(
            f"tool {name!r} is not described as it should be: {told}",
            remedy=f"the fields are {', '.join(ToolDefinition.model_fields)}",
        ) from error


def _tools_of(source: str | Path) -> list[Any]:
    where = str(source) if isinstance(source, Path) else "this"
    try:
        document = read_yaml(source.read_text(encoding="utf-8") if isinstance(source, Path) else source)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} cannot be read: {error}", remedy="give the path of a catalogue") from error
    except PlanSyntaxError as error:
        raise ConfigError(
            f"{where} is no catalogue of tools: {error.where}: {error.message}", remedy=error.remedy
        ) from error
    tools = document.get("tools") if isinstance(document, dict) else None
    if not isinstance(tools, list) or document.get("planloom_tools") != FORMAT_VERSION:
        raise ConfigError(
            f"{where} is no catalogue of tools",
            remedy=f"begin it with `planloom_tools: {FORMAT_VERSION}`, and list the tools below `tools:`",
        )
    return tools


def _with_examples(definition: ToolDefinition) -> str:
    lines = [definition.description] if definition.description else []
    for example in definition.examples:
        told = f" ({example.description})" if example.description else ""
        shown = json.dumps(example.input, ensure_ascii=False)
        output = "" if example.output is None else f" -> {json.dumps(example.output, ensure_ascii=False)}"
        lines.append(f"Example{told}: {shown}{output}")
    return "\n".join(lines)


class _Dumper(yaml.SafeDumper):
    """Writes what YAML 1.2 reads as the same: PyYAML knows 1.1 only, to which `1e3` and `0o7` are text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    looks_like_a_number = text[:1] in tuple("+-.0123456789")
    style = '"' if looks_like_a_number else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)

"""ToolRegistry: every tool there is, by its one canonical name, and who may use which.

Rule 1: an alias or a namespace (`functions.x`, `tools.x`) is a spelling. Everything is decided on canonical names, on
    both sides of a comparison, so no spelling leads around an allowlist.
Rule 2: with an allowlist, what is not on it is denied; a list can be narrowed further, never widened.
Rule 3: a restricted or frozen registry never changes, whatever happens to the one it was made from.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from planloom.errors import ConfigError, NotAllowedError, UnknownToolError, suggestion
from planloom.tools.names import NAMESPACES
from planloom.tools.tool import DECLARED, Tool

if TYPE_CHECKING:
    from planloom.core.events import ToolFacts
    from planloom.plan.policy import Effects

_LLM_NAME = re.compile(r"[^A-Za-z0-9_-]")
_MAX_LLM_NAME: Final = 64
"""Characters that model providers take in a function's name."""


class ToolRegistry:
    """Tools by name."""

    def __init__(self, tools: Iterable[Any] = ()) -> None:
        """Hold these tools; functions among them become tools.

        Raises:
            ConfigError: Two claim one name, or a function that a plan cannot call.
        """
        self._tools: dict[str, Tool] = {}
        self._spellings: dict[str, str] = {}
        """Canonical names by alias."""
        self._llm_names: dict[str, str] = {}
        """Canonical names by the spelling that model providers take; a real name or alias comes first."""
        self._denied: frozenset[str] = frozenset()
        self._is_frozen = False
        for one in tools:
            self.add(one)

    @classmethod
    def of(cls, source: Any = None) -> ToolRegistry:
        """Return a registry of whatever a caller gives as tools.

        Args:
            source: None (the tools decorated in this process), a registry (itself), a catalogue (its registry), a tool
                or function, a list of them, functions by name, or a module (its decorated functions, its tools and
                the tools of its registries).

        Raises:
            ConfigError: None of these, or a module without tools.
        """
        if source is None:
            return _DEFAULT
        if isinstance(source, ToolRegistry):
            return source
        if isinstance(source, ModuleType):
            return cls(_of_module(source))
        held = getattr(source, "registry", None)
        if isinstance(held, ToolRegistry):  # a catalogue: what it only describes cannot be called
            return held
        if isinstance(source, Mapping):
            return cls(_named(name, one) for name, one in source.items())
        if isinstance(source, Tool) or callable(source):
            return cls([source])
        if isinstance(source, Iterable) and not isinstance(source, str | bytes):
            return cls(source)
        raise ConfigError(
            f"a {type(source).__name__} holds no tools",
            remedy="give a registry, a list of tools or functions, or a module",
        )

    def add(self, tool: Any, *, replace: bool = False, **declared: Any) -> Tool:
        """Register a tool, or a function with what it declares (see `Tool.from_function`); return the tool.

        Raises:
            ConfigError: The name or an alias is taken, or this registry is frozen.
        """
        if self._is_frozen:
            raise ConfigError("this registry is frozen", remedy="add the tool before the run starts, or to another one")
        made = tool if isinstance(tool, Tool) else _tool(tool, declared)
        if isinstance(tool, Tool) and declared:
            raise ConfigError(f"tool {made.name!r} is declared already", remedy="use dataclasses.replace to change it")
        if replace:
            self._remove(made.name)
        self._check_free(made)
        self._tools[made.name] = made
        self._spellings.update(dict.fromkeys(made.aliases, made.name))
        self._llm_names[llm_name(made.name)] = made.name
        return made

    def _remove(self, name: str) -> None:
        if self._tools.pop(name, None) is not None:
            self._spellings = {spelling: of for spelling, of in self._spellings.items() if of != name}
            self._llm_names.pop(llm_name(name), None)

    def _check_free(self, made: Tool) -> None:
        for name in (made.name, *made.aliases):
            owner = name if name in self._tools else self._spellings.get(name)
            if owner is not None and owner in self._tools:
                raise ConfigError(
                    f"the name {name!r} belongs to tool {owner!r} ({_where(self._tools[owner])}), "
                    f"so {_where(made)} cannot have it",
                    remedy='give one of them another name, e.g. @tool("module.name")',
                )

    def __iter__(self) -> Iterator[Tool]:
        return iter(self.tools())

    def __len__(self) -> int:
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.resolve(name) in self._tools

    def tools(self) -> list[Tool]:
        """Return the tools that may be used, in the order they came."""
        return list(self._tools.values())

    def names(self) -> list[str]:
        """Return the canonical names of the tools that may be used, in the order they came."""
        return list(self._tools)

    def resolve(self, name: str) -> str | None:
        """Return the canonical name behind a spelling, whether it may be used or not; None if there is no such tool."""
        for spelling in (name, _bare(name)):
            if spelling in self._tools or spelling in self._denied:
                return spelling
            found = self._spellings.get(spelling) or self._llm_names.get(spelling)
            if found is not None:
                return found
        return None

    def get(self, name: str) -> Tool:
        """Return a tool by any of its names.

        Raises:
            UnknownToolError: No such tool.
            NotAllowedError: There is one, and it is not on the allowlist.
        """
        found = self._tools.get(name)
        if found is not None:
            return found
        canonical = self.resolve(name)
        if canonical is None:
            raise UnknownToolError(
                f"there is no tool {name!r}",
                remedy=suggestion(
                    name, self._tools, otherwise="register one: @tool above a function, or --tools MODULE"
                ),
                tool=name,
            )
        if canonical in self._denied:
            raise NotAllowedError(
                f"tool {canonical!r} is not on the allowlist",
                remedy=f"add {canonical!r} to the list of whoever calls it, if it may use it",
                tool=canonical,
                asked_as=name,
            )
        return self._tools[canonical]

    def schema(self, name: str) -> dict[str, Any]:
        """Return the JSON Schema of a tool's parameters; raises as `get` does."""
        return self.get(name).schema

    def effects(self, name: str) -> Effects | None:
        """Return what a tool declares, None if nothing; raises as `get` does."""
        return self.get(name).effects

    def facts(self, name: str) -> ToolFacts:
        """Return what a run is told about a tool; raises as `get` does."""
        return self.get(name).facts

    def allows(self, name: str, allow: Iterable[str] | None) -> bool:
        """Return whether an allowlist lets a tool be used; both are taken by canonical name. None allows all there are.

        Args:
            name: Any name of the tool. One that nobody registered is never allowed.
            allow: Names, or prefixes as in ``mail.*``.
        """
        canonical = self.resolve(name)
        if canonical is None or canonical in self._denied:
            return False
        return allow is None or any(self._covers(entry, canonical) for entry in allow)

    def _covers(self, entry: str, canonical: str) -> bool:
        if entry.endswith(".*"):
            return canonical.startswith(_bare(entry)[:-1])
        return self.resolve(entry) == canonical

    def expanded(self, allow: Iterable[str] | None) -> frozenset[str]:
        """Return the canonical names of the tools that an allowlist covers; None: of all that may be used."""
        entries = None if allow is None else list(allow)
        return frozenset(name for name in self._tools if self.allows(name, entries))

    def restricted(self, allow: Iterable[str] | None) -> ToolRegistry:
        """Return an immutable view with the allowed tools only; None: with all of them.

        Raises:
            ConfigError: An entry that names no tool here, or is not a name or a prefix as in ``mail.*``.
        """
        entries = None if allow is None else _entries(allow)
        for entry in entries or ():
            if not entry.endswith(".*") and self.resolve(entry) is None:
                raise ConfigError(
                    f"the allowlist names {entry!r}, and there is no such tool", remedy=suggestion(entry, self._tools)
                )
        view = ToolRegistry()
        covered = self.expanded(entries)
        view._tools = {name: one for name, one in self._tools.items() if name in covered}
        view._denied = self._denied | (self._tools.keys() - view._tools.keys())
        view._spellings = dict(self._spellings)
        view._llm_names = dict(self._llm_names)
        view._is_frozen = True
        return view

    def frozen(self) -> ToolRegistry:
        """Return this registry as it is now, immutable: what a run uses from start to end."""
        return self if self._is_frozen else self.restricted(None)

    async def aclose(self) -> None:
        """Let go of what stands behind the tools; a later call of one of them begins it anew."""
        backings = {id(one.backing): one.backing for one in self._tools.values() if one.backing is not None}
        await asyncio.gather(*(backing.let_go() for backing in backings.values()))

    def by_name(self) -> Mapping[str, Tool]:
        """Return the tools that may be used, by canonical name; read-only, and one lookup each."""
        return MappingProxyType(self._tools)

    def to_llm_format(self) -> list[dict[str, Any]]:
        """Return the tools as model providers take them, each under a name they accept; `get` takes that name back."""
        return [
            {
                "type": "function",
                "function": {"name": llm_name(one.name), "description": one.description, "parameters": one.schema},
            }
            for one in self._tools.values()
        ]


_DEFAULT = ToolRegistry()


def default_registry() -> ToolRegistry:
    """Return the registry of the tools decorated in this process. It grows; a run takes `frozen()` of it."""
    return _DEFAULT


def llm_name(name: str) -> str:
    """Return a tool's name in the characters that model providers take (A-Z, a-z, 0-9, _ and -; at most 64).

    A name that had to change ends in six digits of its own hash, so that `a.b` and `a_b` stay two tools.
    """
    if len(name) <= _MAX_LLM_NAME and not _LLM_NAME.search(name):
        return name
    mark = sha256(name.encode()).hexdigest()[:6]
    return f"{_LLM_NAME.sub('_', name)[: _MAX_LLM_NAME - 7]}_{mark}"


def _bare(name: str) -> str:
    for namespace in NAMESPACES:
        if name.startswith(namespace):
            return name.removeprefix(namespace)
    return name


def _entries(allow: Iterable[str]) -> list[str]:
    """Return the entries of an allowlist, refusing a lone string, which would be read as its letters."""
    entries = [allow] if isinstance(allow, str) else list(allow)
    for entry in entries:
        wild = entry[:-2] if isinstance(entry, str) and entry.endswith(".*") else entry
        if not isinstance(entry, str) or not wild or "*" in wild or _bare(entry) == "*":
            raise ConfigError(
                f"{entry!r} is no entry of an allowlist",
                remedy="give a tool's name, or a prefix of names as in 'mail.*'",
            )
    return entries


def _tool(source: Any, declared: dict[str, Any]) -> Tool:
    if not callable(source):
        raise ConfigError(f"a {type(source).__name__} is no tool", remedy="give a function, or a Tool")
    return Tool.from_function(source, **declared)


def _named(name: str, source: Any) -> Tool:
    if isinstance(source, Tool):
        if source.name != name:
            raise ConfigError(f"tool {source.name!r} is given as {name!r}", remedy="give it by its own name")
        return source
    return _tool(source, {"name": name})


def _of_module(module: ModuleType) -> list[Tool]:
    found: dict[int, Tool] = {}
    for one in vars(module).values():
        if isinstance(one, Tool):
            found[id(one)] = one
        elif isinstance(one, ToolRegistry):
            found.update((id(made), made) for made in one.tools())
        elif DECLARED in getattr(one, "__dict__", {}) and callable(one) and not isinstance(one, type):
            found.setdefault(id(one), Tool.from_function(one))
    if not found:
        raise ConfigError(f"module {module.__name__!r} has no tools", remedy="put @tool above its functions")
    return list(found.values())


def _where(tool: Tool) -> str:
    function = tool.function
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', type(function).__name__)}"

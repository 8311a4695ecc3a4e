"""The agents of an engine: those of its settings, made of its own tools, and those it is given.

Rule 1: an agent of the settings is no more than settings: a model, words, and tools that the engine has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from planloom.agents.reasoning import Reasoner
from planloom.agents.roster import AgentRegistry
from planloom.errors import ConfigError

if TYPE_CHECKING:
    from planloom.runtime.settings import AgentSetting
    from planloom.tools.registry import ToolRegistry


def roster_of(
    settings: Mapping[str, AgentSetting],
    registry: ToolRegistry,
    given: AgentRegistry | Mapping[str, Any] | Iterable[Any] | None,
) -> AgentRegistry:
    """Return all agents; one that is given takes the place of one of the settings.

    Raises:
        ConfigError: The settings name a tool that is not here.
    """
    known = AgentRegistry.of(given)
    if not settings:
        return known
    made = {name: _reasoner(name, one, registry) for name, one in settings.items() if name not in known}
    return known.with_others(made)


def _reasoner(name: str, setting: AgentSetting, registry: ToolRegistry) -> Reasoner:
    try:
        tools = None if setting.tools is None else registry.restricted(setting.tools)
    except ConfigError as error:
        raise ConfigError(f"the tools of agent {name!r}: {error.message}", remedy=error.remedy) from error
    return Reasoner(
        name=name,
        model=setting.model,
        tools=tools,
        system=setting.system,
        max_iterations=setting.max_iterations,
        temperature=setting.temperature,
        max_tokens=setting.max_tokens,
        output_schema=setting.output,
        description=setting.description,
    )

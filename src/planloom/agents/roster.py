"""AgentRegistry: the agents that plans and callers may name.

Rule 1: it holds its agents: one that is registered is there until it is taken out.
Rule 2: a name means one agent; a second one under it is an error, or, asked for in so many words, takes its place.
Rule 3: what a run is told of an agent is decided by its definition alone, so that the same agent has the same digest.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from planloom.agents.reasoning import Reasoner
from planloom.core.events import AgentFacts
from planloom.errors import ConfigError, unknown_agent
from planloom.plan.policy import Effects

if TYPE_CHECKING:
    from planloom.models.llm import LLM
    from planloom.ports import Model

WAYS = ("run_step", "arun", "run")
"""Methods by which an agent of another kind is asked, in this order; else it is called."""


class AgentRegistry:
    """Agents by name.

    Args:
        agents: Agents by name, or agents that have a name.
    """

    def __init__(self, agents: Mapping[str, Any] | Iterable[Any] = ()) -> None:
        self._agents: dict[str, Any] = {}
        self._effects: dict[str, Effects] = {}
        """What was said of agents when they were registered."""
        if isinstance(agents, Mapping):
            for name, agent in agents.items():
                self.register(agent, name)
        else:
            for agent in agents:
                self.register(agent)

    @classmethod
    def of(cls, source: AgentRegistry | Mapping[str, Any] | Iterable[Any] | None) -> AgentRegistry:
        """Return a registry of whatever a caller gives: itself, agents by name, or agents that have a name."""
        if isinstance(source, AgentRegistry):
            return source
        return cls(() if source is None else source)

    def register(
        self, agent: Any, name: str | None = None, *, effects: Effects | str | None = None, replace: bool = False
    ) -> Any:
        """Register an agent; return it.

        Args:
            agent: A `Reasoner`, something with a `.definition` that is one, an object with `run_step(request,
                context)`, `arun(value)` or `run(value)`, or something to call.
            name: None: its own, `agent.name` or that of its function or class.
            effects: What asking an agent of another kind again would do; None: what it says itself.
            replace: Whether it may take the place of another of that name.

        Raises:
            ConfigError: It is no agent, has no name, or the name is taken.
        """
        if definition_of(agent) is None and not (callable(agent) or way_of(agent) or streams(agent)):
            raise ConfigError(
                f"a {type(agent).__name__} is no agent",
                remedy=f"give something with one of {', '.join(WAYS)}, something to call, or a Reasoner",
            )
        found = _name_of(agent) if name is None else name
        if not isinstance(found, str) or not found.strip():
            raise ConfigError(f"{found!r} is no name of an agent", remedy="give name=")
        if "${{" in found:
            raise ConfigError(f"{found!r} looks like a reference, and no plan could name it", remedy="give name=")
        known = self._agents.get(found)
        if known is not None and known is not agent and not replace:
            raise ConfigError(
                f"there is an agent {found!r} already", remedy="give this one another name=, or replace=True"
            )
        self._agents[found] = agent
        self._effects.pop(found, None)
        if effects is not None:
            self._effects[found] = _known_effects(effects, found)
        return agent

    def with_others(self, agents: Mapping[str, Any]) -> AgentRegistry:
        """Return a registry that also has these, by their names."""
        both = AgentRegistry(self._agents)
        both._effects.update(self._effects)
        for name, agent in agents.items():
            both.register(agent, name)
        return both

    def unregister(self, name: str) -> Any:
        """Take an agent out and return it; raises as `get` does."""
        agent = self.get(name)
        del self._agents[name]
        self._effects.pop(name, None)
        return agent

    def get(self, name: str) -> Any:
        """Return an agent.

        Raises:
            AgentNotFoundError: There is none of that name; its `suggestions` are the names most like it.
        """
        try:
            return self._agents[name]
        except KeyError:
            raise unknown_agent(name, self._agents) from None

    def __contains__(self, name: object) -> bool:
        return name in self._agents

    def __len__(self) -> int:
        return len(self._agents)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def all(self) -> dict[str, Any]:
        """Return the agents by name, in the order they came."""
        return dict(self._agents)

    def names(self) -> list[str]:
        """Return the names of the agents, in the order they came."""
        return list(self._agents)

    # --- what a run is told ---------------------------------------------------------------------

    def definition(self, name: str) -> Reasoner | None:
        """Return an agent's definition, None of an agent of another kind; raises as `get` does."""
        return definition_of(self.get(name))

    def facts(self, name: str) -> AgentFacts:
        """Return what a run is told of an agent when it starts; raises as `get` does."""
        agent = self.get(name)
        definition = definition_of(agent)
        if definition is not None:
            # By itself it only thinks: its tools' effects are on record call by call.
            costs = [one.cost_per_call for one in definition.tools or () if one.cost_per_call]
            return AgentFacts(definition.digest, Effects.NONE, model_ref(name, definition), max(costs, default=None))
        kind = type(getattr(agent, "__wrapped__", agent))  # what is only dressed otherwise is the same agent
        told = ["agent", name, kind.__module__, kind.__qualname__]
        return AgentFacts(
            sha256("\0".join(told).encode()).hexdigest(), self._effects.get(name) or _effects_of(agent, name)
        )

    def model_of(self, name: str) -> LLM | Model | str | None:
        """Return an agent's model as it was given, None if it asks none that planloom knows of; raises as `get`."""
        definition = self.definition(name)
        return None if definition is None else definition.model

    def models(self) -> dict[str, LLM | Model | str]:
        """Return the models that agents bring with them, by the names that `facts` tells of them.

        The model of an agent that is a plain name is one of the engine's own, and not among these.
        """
        found: dict[str, LLM | Model | str] = {}
        for name, agent in self._agents.items():
            definition = definition_of(agent)
            if definition is not None and model_ref(name, definition) != definition.model:
                found[model_ref(name, definition)] = definition.model
        return found


def model_ref(name: str, definition: Reasoner) -> str:
    """Return by what name a run knows an agent's model: a plain name is one of the engine's, any other is its own."""
    if isinstance(definition.model, str) and "://" not in definition.model:
        return definition.model
    return f"agent:{name}"


def definition_of(agent: Any) -> Reasoner | None:
    """Return what an agent is made of, None where that is nothing planloom knows."""
    if isinstance(agent, Reasoner):
        return agent
    held = getattr(agent, "definition", None)
    return held if isinstance(held, Reasoner) else None


def way_of(agent: Any) -> str | None:
    """Return the method by which an agent of another kind is asked; None: it is called."""
    return next((way for way in WAYS if callable(getattr(agent, way, None))), None)


def streams(agent: Any) -> bool:
    """Return whether an agent of another kind can be heard piece by piece: it has `stream_step(request, context)`."""
    return callable(getattr(agent, "stream_step", None))


def _name_of(agent: Any) -> Any:
    named = getattr(agent, "name", None)
    if isinstance(named, str) and named:
        return named
    if inspect.isroutine(agent) or inspect.isclass(agent):
        return agent.__name__
    return type(agent).__name__


def _effects_of(agent: Any, name: str) -> Effects | None:
    told = getattr(agent, "effects", None)
    return None if told is None else _known_effects(told, name)


def _known_effects(told: Any, name: str) -> Effects:
    try:
        return Effects(told)
    except ValueError:
        known = ", ".join(map(repr, map(str, Effects)))
        raise ConfigError(f"effects={told!r} of agent {name!r} is not known", remedy=f"use one of: {known}") from None

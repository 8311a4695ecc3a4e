"""Modules: who may use what. A program runs for one module, with the tools and agents of that module and no others.

Rule 1: deny by default: what a module does not name, its programs may not use; a module that names nothing may nothing.
Rule 2: a module's allowlist is part of its runs' record, so no engine that takes one up widens it, nor does a plan that
a model writes on the way.
Rule 3: a module knows only itself: adding another changes nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.errors import ConfigError, NotAllowedError, PlanError, suggestion
from planloom.plan.against import check_against
from planloom.plan.model import Plan

if TYPE_CHECKING:
    from planloom.plan.document import Path
    from planloom.tools.registry import ToolRegistry


@dataclass(frozen=True, slots=True)
class Module:
    """A part of a system, and what its programs may use.

    Attributes:
        name: In events and on record.
        allow: Names of tools, by any of their spellings, or ``family.*``.
        agents: Names of agents; "default" is who carries out `task` steps. What such an agent does by itself is its
            own: only the tools it calls through planloom are held against `allow`.
    """

    name: str
    allow: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()

    def __init__(self, name: str, allow: Iterable[str] = (), agents: Iterable[str] = ()) -> None:
        for given, what in ((allow, "allow"), (agents, "agents")):
            if isinstance(given, str):
                raise ConfigError(f"{what} of module {name!r} is a text", remedy=f'give a set: {what}={{"{given}"}}')
        if not name:
            raise ConfigError("a module needs a name", remedy='e.g. Module("mailer", allow={"mail.send"})')
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "allow", frozenset(allow))
        object.__setattr__(self, "agents", frozenset(agents))

    def tools(self, registry: ToolRegistry) -> tuple[str, ...]:
        """Return the canonical names of the tools it may use, sorted.

        Raises:
            ConfigError: It names a tool that is not here: rather a typing error than a tool nobody misses.
        """
        return tuple(sorted(registry.restricted(self.allow).names()))

    def denials(self, plan: Plan, registry: ToolRegistry) -> list[NotAllowedError]:
        """Return for each tool and agent that a plan names, and this module may not use, why not."""
        found = check_against(plan, registry, allow=self.allow)
        denied: list[PlanError] = [problem for problem in found if isinstance(problem, NotAllowedError)]
        return [*denied, *self._agents_denied(plan, (), "")]  # type: ignore[list-item]  # filtered above

    def _agents_denied(self, plan: Plan, path: Path, prefix: str) -> Iterator[NotAllowedError]:
        for place, step in enumerate(plan.steps):
            here = (*path, "steps", place)
            name = step.agent_name
            if name is not None and name not in self.agents:
                error = NotAllowedError(
                    f"step {step.id!r} uses agent {name!r}, which module {self.name!r} may not use",
                    remedy=f"add {name!r} to the agents of the module, if it may use it",
                    step=prefix + step.id,
                    path=(*here, step.kind),
                    agent=name,
                )
                yield error
            if isinstance(step.plan, Plan):
                yield from self._agents_denied(step.plan, (*here, "plan"), f"{prefix}{step.id}/")


class Modules:
    """Modules by name."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self._by_name: dict[str, Module] = {}
        for module in modules:
            self.add(module)

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._by_name.values())

    def add(self, module: Module) -> None:
        """Add a module.

        Raises:
            ConfigError: There is one of that name.
        """
        if module.name in self._by_name:
            raise ConfigError(f"there is a module {module.name!r} already", remedy="give it another name")
        self._by_name[module.name] = module

    def find(self, wanted: Module | str | None) -> Module | None:
        """Return the module that a program is to run for; None where there are no modules at all.

        Raises:
            ConfigError: There is no such module; or there are some, and none is named.
        """
        if wanted is None and not self._by_name:
            return None
        name = wanted.name if isinstance(wanted, Module) else wanted
        if name is None:
            raise ConfigError("whose program is it?", remedy=f"name its module: {', '.join(sorted(self._by_name))}")
        found = self._by_name.get(name)
        if found is None or (isinstance(wanted, Module) and wanted != found):
            raise ConfigError(
                f"there is no module {name!r} like that here",
                remedy=suggestion(name, self._by_name, otherwise="add it: agent.modules.add(Module(...))"),
            )
        return found

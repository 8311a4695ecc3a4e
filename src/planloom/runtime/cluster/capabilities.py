"""Which module's workers make an attempt.

Rule 1: a step that names tools goes to the module that may use all of them; a step of another kind, to one that does
that kind and may use what tools it names.
Rule 2: one answer, or an error: work that nobody may do, or that two may, is refused before anything happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.errors import ConfigError, NotAllowedError, PlanError
from planloom.plan.model import Plan
from planloom.runtime.cluster.settings import MAIN
from planloom.runtime.wiring import HEART_KINDS
from planloom.transport.fitting import kind_of_work, tools_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planloom.core.commands import RunStep
    from planloom.plan.document import Path
    from planloom.plan.model import Step
    from planloom.runtime.cluster.settings import ModuleSetting
    from planloom.tools.registry import ToolRegistry


class Capabilities:
    """The modules of a cluster, and what their workers may do.

    Raises:
        ConfigError: A module names a tool that is not here.
    """

    def __init__(self, modules: Mapping[str, ModuleSetting], registry: ToolRegistry) -> None:
        self._registry = registry
        self._modules = {name: (registry.expanded(one.allow), frozenset(one.kinds)) for name, one in modules.items()}
        if "submit" in modules or "signal" in modules:
            raise ConfigError("no module may be called submit or signal", remedy="call it something else")

    @property
    def names(self) -> list[str]:
        return list(self._modules) or [MAIN]

    def of(self, request: RunStep) -> str:
        """Return the module whose workers make an attempt.

        Raises:
            PlanError: None does, or more than one.
        """
        return self._of(request.step, kind_of_work(request))

    def problems(self, plan: Plan) -> list[PlanError]:
        """Return for each step of a plan, and of the plans in it, why nobody would make it."""
        return list(self._problems(plan, (), ""))

    def _problems(self, plan: Plan, path: Path, prefix: str) -> Iterator[PlanError]:
        for place, step in enumerate(plan.steps):
            here = (*path, "steps", place)
            if isinstance(step.plan, Plan):
                yield from self._problems(step.plan, (*here, "plan"), f"{prefix}{step.id}/")
            kinds = [] if step.kind in HEART_KINDS else [step.kind]
            for kind in kinds + (["replan"] if step.replan is not None else []):
                try:
                    self._of(step, kind)
                except PlanError as error:
                    yield type(error)(error.message, remedy=error.remedy, step=prefix + step.id, path=here)

    def _of(self, step: Step, kind: str) -> str:
        if not self._modules:
            return MAIN
        named = [] if kind == "replan" else tools_of(step)
        tools = {self._registry.resolve(name) or name for name in named}
        fitting = [
            name
            for name, (allow, kinds) in self._modules.items()
            if tools <= allow and (kind in kinds or (kind == "tool" and tools))
        ]
        if len(fitting) == 1:
            return fitting[0]
        what = f"{kind} steps" + (f" with {', '.join(sorted(tools))}" if tools else "")
        if fitting:
            raise PlanError(
                f"step {step.id!r} could be made by the workers of {' and of '.join(sorted(fitting))}",
                remedy=f"let only one of these modules make {what}",
            )
        raise NotAllowedError(
            f"step {step.id!r} can be made by the workers of no module",
            remedy=f"let a module of [cluster.modules] make {what}, if it may",
        )

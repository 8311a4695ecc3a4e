"""What a plan needs that is not to be had where its steps are done: told before a run exists, and not at the step.

Rule 1: what is given to `Engine` in Python lives in this process. Workers have what their `WorkerSetup` says.
Rule 2: of tools only what workers have said counts: where none has come in yet, the step finds out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.errors import NotInstalledError, PlanError
from planloom.plan.model import Plan, Step

if TYPE_CHECKING:
    from planloom.plan.document import Path as PlanPath
    from planloom.ports import SandboxBackend, Transport


@dataclass(frozen=True, slots=True)
class Reach:
    """Looks whether what a plan names can be had where its steps are done.

    Attributes:
        sandboxes: Of this process, by what a step calls its `runtime`.
        agents: Names of those that were given in Python; so too the other three.
    """

    transport: Transport
    sandboxes: Mapping[str, SandboxBackend]
    agents: frozenset[str]
    models: frozenset[str]
    judges: frozenset[str]
    validators: frozenset[str]

    def problems(self, plan: Plan, path: PlanPath = (), prefix: str = "") -> Iterator[PlanError]:
        """Yield what is out of reach."""
        for place, step in enumerate(plan.steps):
            here = (*path, "steps", place)
            if isinstance(step.plan, Plan):
                yield from self.problems(step.plan, (*here, "plan"), f"{prefix}{step.id}/")
                continue
            if self.transport.is_elsewhere(step.kind):
                for what, name in self._only_here(step):
                    yield PlanError(
                        f"{what} {name!r} was given to this engine in Python, and workers know nothing of it",
                        remedy=f"name it in the planloom.toml of WorkerSetup(settings=...), or have such steps done in "
                        f"this process: on_workers(pool, here=({step.kind!r},))",
                        step=prefix + step.id,
                        path=here,
                    )
            elif step.code is not None:
                yield from self._no_sandbox(step, step.code.runtime, (*here, "code"), prefix)
            why = self.transport.lacks(step)
            if why:
                remedy = f"give it to WorkerSetup(tools=...), or use on_workers(pool, here=({step.kind!r},))"
                yield PlanError(why, remedy=remedy, step=prefix + step.id, path=here)

    def _no_sandbox(self, step: Step, runtime: str, path: PlanPath, prefix: str) -> Iterator[PlanError]:
        sandbox = self.sandboxes.get(runtime)
        missing = None if sandbox is None else sandbox.missing()
        if missing is not None:
            yield NotInstalledError(missing.message, remedy=missing.remedy, step=prefix + step.id, path=path)

    def _only_here(self, step: Step) -> Iterator[tuple[str, str]]:
        if step.agent_name in self.agents:
            yield "agent", str(step.agent_name)
        verify, speculate = step.verify, step.speculate
        asked = [step.model, verify.model if verify else None]
        asked += [speculate.draft, speculate.judge] if speculate else []
        asked += [step.gasa.shadow_model] if step.gasa else []
        for name in asked:
            if name in self.models or name in self.judges:
                yield "judge" if name in self.judges else "model", str(name)
        for one in verify.validators if verify else ():
            name = one if isinstance(one, str) else next(iter(one), "")
            if name in self.validators:
                yield "validator", name

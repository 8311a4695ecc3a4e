"""Step kind → the executor that does it; what replaces a failed step's work (`role` "replan") has one of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.errors import NotInstalledError

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.core.result import StepOutcome
    from planloom.ports import AttemptContext, AttemptExecutor


@dataclass(frozen=True, slots=True)
class ByKind:
    executors: Mapping[str, AttemptExecutor]

    def execute(self, request: RunStep, context: AttemptContext) -> Awaitable[StepOutcome]:
        kind = "replan" if request.role == "replan" else request.step.kind
        executor = self.executors.get(kind)
        if executor is None:
            raise NotInstalledError(f"nothing here does {kind} steps", remedy="run it where that executor is installed")
        return executor.execute(request, context)

"""What one plan shape of the crash sweep is, and how it is swept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planloom import MemoryJournal, Tool
from planloom.plan.load import load_plan
from planloom.ports import Journal
from planloom.testing.sweep.everywhere import Law, Sweep
from planloom.testing.sweep.report import CrashReport
from planloom.testing.sweep.story import CrashWorld, Staging
from tests.crash.answers import TOOLS

DOWN_S = 3_600.0
"""How long the power stays off."""
Steps = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A plan, and what it needs besides the tools of all shapes.

    Attributes:
        fields: Of the plan, besides its steps.
        parts: Of `CrashWorld`.
        staging: Of `Staging`, besides plan and world.
        lags, twice: How it is swept, if not as the others are.
    """

    steps: Steps
    fields: Mapping[str, Any] = field(default_factory=dict)
    parts: Callable[[Sequence[Tool]], Mapping[str, Any]] | None = None
    staging: Mapping[str, Any] = field(default_factory=dict)
    journal: Callable[[], Journal] = MemoryJournal
    laws: tuple[Law, ...] = ()
    lags: tuple[int, ...] | None = None
    twice: int | None = None

    def sweep(self, name: str, *, lag: int, twice: int | None = None) -> CrashReport:
        """Stop it everywhere; return what was found."""
        plan = load_plan({"planloom": 1, "name": name, **self.fields, "steps": self.steps})
        world = CrashWorld(tools=TOOLS, parts=self.parts)
        options = {"down_s": DOWN_S, **self.staging}
        staging = Staging(plan=plan, world=lambda: world, lag=lag, journal=self.journal, **options)
        return Sweep(staging, laws=self.laws, twice=twice).run()


def out(step_id: str) -> str:
    """Return the reference to a step's output."""
    return f"${{{{ steps.{step_id}.output }}}}"


def do(step_id: str, tool: str, n: Any, *needs: str, **fields: Any) -> dict[str, Any]:
    """Return a tool step that is given a number."""
    return {"id": step_id, "tool": tool, "with": {"n": n}, **({"needs": list(needs)} if needs else {}), **fields}

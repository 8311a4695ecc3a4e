"""`crash_everywhere`: a plan stopped at every point where it can be, restarted, and compared with itself undisturbed.

Rule 1: it goes on with points of a kind until a run ends without having come so far: until clean.
Rule 2: a plan that comes to two things undisturbed cannot be compared with itself; nothing is said of it but that.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

from planloom.errors import PlanError, PlanloomError
from planloom.journal.memory import MemoryJournal
from planloom.plan.load import load_plan
from planloom.plan.model import Plan
from planloom.testing.sweep.findings import CrashFinding, findings_of, unknown_outcomes
from planloom.testing.sweep.loop import run_patiently
from planloom.testing.sweep.point import MEANING, Cuts, Point, read_cuts, text_of
from planloom.testing.sweep.report import CrashFailure, CrashReport
from planloom.testing.sweep.story import CrashWorld, Staging, Story, told
from planloom.tools.tool import DECLARED, Tool

if TYPE_CHECKING:
    from planloom.ports import Journal
    from planloom.runtime.checks import PlanSource
    from planloom.testing.sweep.person import Says

Law = Callable[[Story, Story], Iterable[str]]
"""What else must hold of a story, given the same run undisturbed: sentences that say what does not."""


async def crash_everywhere(
    plan: PlanSource,
    tools: Any,
    *,
    inputs: Mapping[str, Any] | None = None,
    only: str | Iterable[str] | None = None,
    answers: Mapping[str, Any] | None = None,
    says: Callable[[], Says] | None = None,
    laws: Iterable[Law] = (),
    twice: int | None = None,
    lag: int = 1,
    down_s: float = 1.0,
    journal: Callable[[], Journal] = MemoryJournal,
    in_real_time: bool = False,
    **options: Any,
) -> CrashReport:
    """Stop a run of the plan at every point where it can be stopped, restart it each time, and look at everything.

    First the run is left alone. Then, for N = 1, 2, … until a run ends without having come so far, the power of its
    process is cut before the Nth write of the journal, after it and before anybody is told, when the Nth tool is about
    to be called, after it did what it does and before that is on record; and the same with timers, with attempts of
    steps that are no tool's, and with what people say. Another engine goes on from what is on the disk, to the end.
    That must be the same: status, output and every step; nothing recorded is made again, no `once` tool is called
    twice, every effect's start was on record before it, no effect is missing, and the record keeps its laws.

    What the tools do must be repeatable: the same answer to the same arguments, whenever they are asked. Where they
    keep a state, give a function that makes them anew: a fresh world for every point.

    It takes no time to wait: retries, timeouts, `wait` steps and ``asyncio.sleep`` pass at once, in an event loop of
    its own. Where a step may run only once and nobody knows whether it did, it is resolved as somebody would who looks:
    with what it answered, or with another try if it was never called.

    Args:
        tools: As an engine takes them; or a function without parameters that returns them, or a `CrashWorld`, anew for
            each point.
        inputs: Of the run.
        only: Points to stop at instead of all, as a report names them, e.g. ``"write 17, after"``, or, for a second
            time after the restart, ``"call 3, before then write 2, after"``.
        answers: What is said to approvals, by step: False denies, True allows, anything else is what is filled in; all
            others are allowed.
        says: Makes somebody who hears every event and may answer with a fact, e.g. a `CancelRequested`.
        laws: What else must hold.
        twice: After every so-manieth point, stop again, everywhere after that restart. None: once is enough.
        lag: Turns of the event loop from a write to its acknowledgement. 0: writes are durable at once.
        down_s: Seconds until the restart.
        journal: Makes what is on the disk; none of it is kept.
        in_real_time: Whether async tools wait for threads or sockets that the event loop cannot know of: then time
            passes as it does while one of them is under way.
        options: Of `Engine.start`: limits, parallel, allow, …

    Raises:
        PlanError: The plan is wrong, or does not fit the tools or the inputs.
    """
    staging = Staging(
        plan=_checked(plan),
        world=_worlds(tools),
        inputs=inputs,
        options=options,
        answers=dict(answers or {}),
        says=says,
        lag=lag,
        down_s=down_s,
        journal=journal,
        in_real_time=in_real_time,
    )
    sweep = Sweep(staging, laws=tuple(laws), only=None if only is None else _cuts(only), twice=twice)
    try:
        return await asyncio.to_thread(sweep.run)
    finally:
        sweep.stop.set()


def _checked(plan: PlanSource) -> Plan:
    return plan if isinstance(plan, Plan) else load_plan(plan)


def _worlds(tools: Any) -> Callable[[], CrashWorld]:
    """Return what makes worlds: a function without parameters that is no tool makes tools."""

    def world() -> CrashWorld:
        made = tools() if _is_factory(tools) else tools
        return made if isinstance(made, CrashWorld) else CrashWorld(tools=made)

    return world


def _is_factory(tools: Any) -> bool:
    if isinstance(tools, Tool) or not callable(tools) or hasattr(tools, DECLARED):
        return False
    return not inspect.signature(tools).parameters


def _cuts(only: str | Iterable[str]) -> tuple[Cuts, ...]:
    return tuple(read_cuts(text) for text in ([only] if isinstance(only, str) else only))


@dataclass(slots=True)
class Sweep:
    """One plan, stopped everywhere.

    Attributes:
        only: Where to stop; None: wherever one can.
        twice: After every so-manieth point, stop a second time everywhere.
        stop: Set to end it before its time.
    """

    staging: Staging
    laws: tuple[Law, ...] = ()
    only: tuple[Cuts, ...] | None = None
    twice: int | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    _came_so_far: bool = True

    def run(self) -> CrashReport:
        """Return what was found. Runs event loops of its own: call it where none runs."""
        began_at = monotonic()
        plan = self.staging.plan
        report = CrashReport(plan.name if isinstance(plan, Plan) else "")
        whole = self._undisturbed(report)
        if whole is not None:
            for cuts in self._everywhere() if self.only is None else self.only:
                if self.stop.is_set():
                    break
                self._came_so_far = self._stop_at(cuts, whole, report)
        report.seconds = monotonic() - began_at
        return report

    def _undisturbed(self, report: CrashReport) -> Story | None:
        """Leave the run alone, twice; return its story, or None if that is not the same both times."""
        try:
            whole, again = (run_patiently(told(self.staging)) for _ in range(2))
        except PlanError:
            raise
        except PlanloomError as error:
            report.failures.append(self._failure((), CrashFinding("stuck", str(error))))
            return None
        found = findings_of(again, whole)
        unlike = [finding.what for finding in found if finding.kind == "outcome"]
        found = [finding for finding in found if finding.kind != "outcome"]
        found += [CrashFinding("tool", f"left alone it comes to one thing, then to another: {what}") for what in unlike]
        report.failures += [self._failure((), finding) for finding in found]
        return None if any(finding.kind == "tool" for finding in found) else whole

    def _everywhere(self, before: Cuts = ()) -> Iterator[Cuts]:
        """Yield the points of each kind, until a run did not come so far."""
        for kind, moment in MEANING:
            for number in count(1):
                cuts = (*before, Point(kind, number, moment))
                yield cuts
                if not self._came_so_far:
                    break
                if not before and self.twice is not None and number % self.twice == 0:
                    yield from self._everywhere(cuts)

    def _stop_at(self, cuts: Cuts, whole: Story, report: CrashReport) -> bool:
        """Stop there, and look at everything; return whether the run came so far."""
        try:
            story = run_patiently(told(self.staging, cuts, undisturbed=whole.result))
        except Exception as error:  # noqa: BLE001 - whatever breaks an engine after a crash is what is looked for
            report.points[cuts] = 0
            report.failures.append(self._failure(cuts, CrashFinding("stuck", f"{type(error).__name__}: {error}")))
            return cuts[-1].number <= whole.lives[0].reached[cuts[-1].kind]  # of those there are, all are tried
        if len(story.lives) <= len(cuts):
            return False
        report.points[cuts] = unknown_outcomes(story)
        findings = findings_of(story, whole)
        if not any(finding.kind == "tool" for finding in findings):
            findings += [CrashFinding("own", what) for law in self.laws for what in law(story, whole)]
        report.failures += [self._failure(cuts, finding) for finding in findings]
        return True

    def _failure(self, cuts: Cuts, finding: CrashFinding) -> CrashFailure:
        staging = self.staging
        usual = Staging(plan=staging.plan, world=staging.world)
        words = ["plan", "tools"]
        words += [f'only="{text_of(cuts)}"'] if cuts else []
        words += [
            f"{name}={getattr(staging, name)!r}"
            for name in ("lag", "down_s", "in_real_time")
            if getattr(staging, name) != getattr(usual, name)
        ]
        return CrashFailure(cuts, finding.kind, finding.what, f"crash_everywhere({', '.join(words)})")

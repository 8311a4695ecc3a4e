"""How runs begin: what is on record of one before anything happens, checked whole.

Rule 1: nothing happens here: whoever asks may start the run, hand it to others, or leave it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import planloom
from planloom.core.events import RunStarted
from planloom.plan.inputs import check_inputs
from planloom.runtime.forks import TakenOver, around, behind_no_failure

if TYPE_CHECKING:
    from planloom.core.machine import RunMachine
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Clock
    from planloom.runtime.checks import Checks, PlanSource
    from planloom.runtime.guesses import Guesses


class Openings:
    """Says how runs of one engine begin.

    Args:
        allow: Names of the tools that its runs may use; None: all there are.
    """

    def __init__(self, checks: Checks, guesses: Guesses, clock: Clock, *, allow: tuple[str, ...] | None) -> None:
        self._checks = checks
        self._guesses = guesses
        self._clock = clock
        self._allow = allow

    def of(
        self,
        plan: PlanSource,
        inputs: Mapping[str, Any] | None = None,
        *,
        limits: ResourceLimits | None = None,
        parallel: bool = True,
        track_cost: bool = True,
        allow: Iterable[str] | None = None,
        module: str = "",
        request: str = "",
        run_ahead: bool = True,
    ) -> RunStarted:
        """Return what a run of this plan would begin with, checked whole; nothing happens. Raises as `Engine.start`."""
        allow = self._checks.narrowed(allow)
        checked = self._checks.of(plan, allow)
        limits = limits if limits is not None else checked.plan.limits
        return RunStarted(
            checked.plan,
            check_inputs(checked.plan, inputs),
            self._clock.now(),
            limits,
            checked.tools,
            allow,
            parallel,
            track_cost,
            planloom.__version__,
            models=self._checks.model_facts(checked, limits, track_cost=track_cost),
            guesses=self._guesses.of(checked.plan) if run_ahead else {},
            agents=checked.agents,
            module=module,
            flow=checked.flow,
            binds=True,
            request=request,
            run_ahead=run_ahead,
        )

    def retry(self, machine: RunMachine, *, request: str = "", run_ahead: bool = True) -> RunStarted:
        """Return how a run would begin that `Engine.retry_failed` starts, from the earlier one's record."""
        return self._again(machine, behind_no_failure(machine), request=request, run_ahead=run_ahead)

    def fork(
        self,
        machine: RunMachine,
        step: str,
        output: Any,
        *,
        repeat_effects: bool = False,
        request: str = "",
        run_ahead: bool = True,
    ) -> RunStarted:
        """Return how a run would begin that `Engine.fork` starts, from the earlier one's record."""
        taken = around(machine, step, output, repeat_effects=repeat_effects)
        return self._again(machine, taken, request=request, run_ahead=run_ahead)

    def _again(self, machine: RunMachine, taken: TakenOver, *, request: str, run_ahead: bool) -> RunStarted:
        """Return how a new run of another one's plan and inputs begins."""
        old = machine.state.started
        assert old is not None
        allow = self._allow if old.allow is None else self._checks.narrowed(old.allow)
        checked = self._checks.of(old.plan, allow)
        return RunStarted(
            checked.plan,
            old.inputs,
            self._clock.now(),
            old.limits,
            checked.tools,
            allow,
            old.parallel,
            old.track_cost,
            planloom.__version__,
            machine.run_id,
            taken.outputs,
            self._checks.model_facts(checked, old.limits, track_cost=old.track_cost),
            agents=checked.agents,
            module=old.module,
            flow=checked.flow,
            reused_labels=taken.labels,
            binds=True,
            request=request,
            edited=taken.edited,
            run_ahead=run_ahead,
        )

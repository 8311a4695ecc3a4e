"""What is to be done, each with its place in one plan and its answer out of that plan's run.

Rule 1: what cannot be done is no step of the plan: its answer is there already.
Rule 2: an answer is made of what is on record.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planloom.api.step_answers import (
    StepAnswer,
    agent_not_found,
    answer_of,
    internal_error,
    is_out_of_resources,
    out_of_resources,
    timed_out,
)
from planloom.api.step_forms import WantedCall, seconds
from planloom.core.events import AttemptFailed
from planloom.core.result import StepResult, StepStatus
from planloom.errors import OutputError, PlanError, ValidationError
from planloom.plan.policy import Effects, FailureKind
from planloom.plan.values import as_json

if TYPE_CHECKING:
    from planloom.api.step_plan import AgentTerms, StepPlan
    from planloom.ports import Recorded
    from planloom.tools.registry import ToolRegistry

_log = logging.getLogger("planloom.steps")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What the steps of a run came to.

    Attributes:
        results: By the step's id.
        types: Class names of the exception that the last attempt of a failed step ended with.
    """

    run_id: str = ""
    results: Mapping[str, StepResult] = field(default_factory=dict)
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, run_id: str, results: Sequence[StepResult], record: Sequence[Recorded]) -> Outcomes:
        failures = [entry.event for entry in record if isinstance(entry.event, AttemptFailed)]
        types = {failure.step: failure.error_types for failure in failures}
        return cls(run_id, {result.id: result for result in results}, types)


@dataclass(slots=True, kw_only=True)
class AgentPart:
    """An agent to ask.

    Attributes:
        given: What it is given; None where there is no such agent.
        known: The agents there are.
        debug: Whether the answer says what went wrong inside.
    """

    name: str
    given: dict[str, Any] | None
    how: AgentTerms
    known: Sequence[str] = ()
    priority: int = 0
    debug: bool = False
    _step: str = ""

    def put(self, plan: StepPlan) -> None:
        if self.given is not None:
            self._step = plan.add_agent(self.name, self.given, self.how, priority=self.priority)

    def answer(self, outcomes: Outcomes) -> StepAnswer:
        """Return its answer.

        Raises:
            CancelledError: It was cancelled.
        """
        if self.given is None:
            return StepAnswer(agent_not_found(self.name, self.known), is_error=True)
        result = outcomes.results[self._step]
        retries = max(0, result.attempts - 1)
        latency_s = (result.latency_ms or 0.0) / 1000
        if result.status is StepStatus.COMPLETED:
            return StepAnswer(answer_of(result.output), False, retries, latency_s)
        if result.status is StepStatus.CANCELLED or result.error_kind == FailureKind.CANCELLED.value:
            raise asyncio.CancelledError(f"the step of agent {self.name!r} was cancelled")
        types = outcomes.types.get(self._step, ())
        error = self._error(result, types)
        if error["error_type"] == "internal_error":
            # No more than its class: an error's text may hold anything.
            what = types[0] if types else result.error_kind
            _log.error("agent %r failed: %s (run %s, step %s)", self.name, what, outcomes.run_id, self._step)
        return StepAnswer(error, True, retries, latency_s)

    def _error(self, result: StepResult, types: Sequence[str]) -> dict[str, Any]:
        if result.status is StepStatus.TIMED_OUT or result.error_kind == FailureKind.TIMEOUT.value:
            return timed_out(self.name, self.how.timeout_s)
        if is_out_of_resources(result.error_kind, types):
            return out_of_resources()
        return internal_error(result.error if self.debug else None)


@dataclass(slots=True)
class _Call:
    """One tool call: the step that makes it, or why there is none."""

    wanted: WantedCall
    step: str = ""
    problem: str = ""


@dataclass(slots=True, kw_only=True)
class ToolsPart:
    """Tools to call, side by side.

    Attributes:
        tools: Those that may be called.
        timeout_s: Seconds for a call; None: what the tool says, else `default_timeout_s`.
        is_spared: Whether tools have breakers that they do not declare themselves.
    """

    calls: Sequence[WantedCall]
    tools: ToolRegistry
    timeout_s: float | None
    default_timeout_s: float
    priority: int = 0
    is_spared: bool = False
    _made: list[_Call] = field(default_factory=list)

    @classmethod
    def of(
        cls, calls: Any, tools: ToolRegistry, context: Mapping[str, Any], *, timeout_s: float, **fields: Any
    ) -> ToolsPart:
        """Return the part of these calls.

        Raises:
            ValidationError: `calls` is no list, or `context` allows what is no list of names.
            ConfigError: `context` allows a tool that nobody registered.
        """
        if isinstance(calls, str | bytes | Mapping) or not isinstance(calls, Sequence):
            raise ValidationError(f"a {type(calls).__name__} is no list of tool calls", remedy="give a list")
        allow, wanted_s = context.get("allow"), context.get("timeout")
        if allow is not None and not isinstance(allow, Iterable):
            raise ValidationError(f"a {type(allow).__name__} is no allowlist", remedy="give a list of names of tools")
        return cls(
            calls=[WantedCall.read(call) for call in calls],
            tools=tools if allow is None else tools.restricted(allow),
            timeout_s=None if wanted_s is None else seconds(wanted_s),
            default_timeout_s=timeout_s,
            **fields,
        )

    def put(self, plan: StepPlan) -> None:
        self._made = [self._put(wanted, plan) for wanted in self.calls]

    def _put(self, wanted: WantedCall, plan: StepPlan) -> _Call:
        if wanted.args is None:
            return _Call(wanted, problem=wanted.problem or "it has no arguments")
        try:
            tool = self.tools.get(wanted.name)
            args = as_json(wanted.args, where="arguments")
            tool.validate(args)  # one bad call must not keep the plan from running
        except (PlanError, OutputError) as error:
            return _Call(wanted, problem=str(error))
        timeout_s = self.timeout_s or tool.timeout_seconds or self.default_timeout_s
        # Whoever spares a tool wants to hear at once that it was not called, not after its breaker has closed again.
        again = tool.effects in (Effects.NONE, Effects.IDEMPOTENT) and tool.breaker is None and not self.is_spared
        step = plan.add_tool(tool.name, args, timeout_s=timeout_s, priority=self.priority, again=again)
        return _Call(wanted, step)

    def answer(self, outcomes: Outcomes) -> StepAnswer:
        """Return what came of each call, in order."""
        return StepAnswer([_told(call, outcomes) for call in self._made])


def _told(call: _Call, outcomes: Outcomes) -> dict[str, Any]:
    result = outcomes.results.get(call.step)
    told: dict[str, Any] = {"tool_name": call.wanted.name, "result": None, "error": None, "execution_time": 0.0}
    if result is None:
        told["error"] = call.problem
    else:
        told["execution_time"] = result.busy_s
        if result.status is StepStatus.COMPLETED:
            told["result"] = result.output
        else:
            told["error"] = result.error or f"the call was {result.status.value}"
    if call.wanted.id is not None:
        told["tool_call_id"] = call.wanted.id
    return told


Part = AgentPart | ToolsPart

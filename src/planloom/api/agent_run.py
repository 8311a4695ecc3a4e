"""A plan of one agent step, made for one task and run by an engine of its own; taken up again where it broke off.

Rule 1: the task goes in as an input and is referred to: no text of a caller is ever read as a reference.
Rule 2: a failed run raises what its model raised, the very same object where there is one.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planloom.agents.reasoning import Reasoner
from planloom.agents.roster import AgentRegistry
from planloom.api.one_step import ANSWER, Seen, Watched, llm_of
from planloom.core.result import RunResult, RunStatus
from planloom.errors import (
    ArgumentsError,
    ConfigError,
    OutputError,
    PlanTimeoutError,
    ResourceLimitError,
    RunBlockedError,
    RunNotFoundError,
    StepError,
    ToolExecutionError,
)
from planloom.journal.memory import MemoryJournal
from planloom.plan.model import Plan, Step
from planloom.plan.policy import AgentPolicy, FailureKind
from planloom.runtime.engine import Engine

if TYPE_CHECKING:
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Journal
    from planloom.runtime.run import Run

__all__ = ["ANSWER", "run_of"]

_RAISED: dict[str, type[StepError] | type[ArgumentsError]] = {
    FailureKind.OUTPUT.value: OutputError,
    FailureKind.INPUT.value: ArgumentsError,
}


async def run_of(
    definition: Reasoner,
    task: Any,
    said: list[Any],
    *,
    journal: str | os.PathLike[str] | Journal | None,
    run_id: str | None,
    limits: ResourceLimits | None = None,
) -> RunResult:
    """Have an agent do a task, or go on with it, and return how its run ended.

    Args:
        said: Messages from before, as JSON.

    Raises: as `ReasoningAgent.arun`.
    """
    seen = Seen()
    watched = replace(definition, model=Watched(llm_of(definition.model), seen))
    inputs = {"task": task, "said": said}
    async with Engine(
        MemoryJournal() if journal is None else journal, tools=(), agents=AgentRegistry({definition.name: watched})
    ) as engine:
        run = None if run_id is None else await _known(engine, run_id, inputs)
        if run is None:
            run = await engine.start(_plan(definition), inputs, run_id=run_id, limits=limits)
        result = await engine.finish(run)
    _raise_for(result, seen)
    return result


def _plan(definition: Reasoner) -> Plan:
    agent = AgentPolicy(name=definition.name, max_iterations=definition.max_iterations)
    given: dict[str, Any] = {"with": {"input": "${{ inputs.task }}", "memory": "${{ inputs.said }}"}}
    return Plan(
        name=definition.name,
        inputs={"task": {}, "said": {"type": "array"}},
        steps=(Step(id=ANSWER, agent=agent, **given),),
        outputs=f"${{{{ steps.{ANSWER}.output }}}}",
    )


async def _known(engine: Engine, run_id: str, inputs: dict[str, Any]) -> Run | None:
    """Return the run of that name, taken up again, or None if there is none yet.

    What was said before is not compared: what the agent kept since then is no other task.
    """
    try:
        first = (await engine.journal.read(run_id, limit=1))[0].event
    except RunNotFoundError:
        return None
    recorded = getattr(first, "inputs", {})
    if recorded.get("task") != inputs["task"] or set(recorded) != set(inputs):
        raise ConfigError(
            f"run {run_id} is on record with another task",
            remedy="give the same one to go on with it, or another run_id for a new run",
        )
    return await engine.resume(run_id)


def _raise_for(result: RunResult, seen: Seen) -> None:
    if result.status is RunStatus.SUCCESS:
        return
    step = result.step(ANSWER)
    if result.status is RunStatus.LIMIT_EXCEEDED:
        is_time = "timeout_seconds" in result.exceeded_limits
        reached = (PlanTimeoutError if is_time else ResourceLimitError)(result.exceeded_limits)
        reached.partial = result.to_dict()
        raise reached
    if result.status is RunStatus.WAITING:
        blocked = result.blockers()
        raise RunBlockedError(
            f"run {result.run_id} waits for a person: {'; '.join(one['why'] for one in blocked)}",
            remedy="; ".join(one["command"] for one in blocked),
            blocked=blocked,
        )
    told = step.error or result.error or "the run did not end well"
    own = seen.error(step.error)
    if own is not None:
        raise own
    cause = seen.errors[-1] if seen.errors else None
    kind = _RAISED.get(step.error_kind or "")
    if kind is None:
        raise ToolExecutionError(ANSWER, step.doer, told) from cause
    message, _, remedy = told.partition("\n  try: ")
    raise kind(message, remedy=remedy) from cause

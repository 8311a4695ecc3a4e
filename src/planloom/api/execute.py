"""execute_plan: a plan in, a dict out. A thin door: it translates, calls the engine, and translates back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from planloom import blocking
from planloom.agents.small import SmallModelWorker
from planloom.core.result import RunResult, RunStatus
from planloom.errors import (
    ConfigError,
    PlanTimeoutError,
    ResourceLimitError,
    RunNotFoundError,
    ToolExecutionError,
)
from planloom.plan.inputs import check_inputs
from planloom.runtime.engine import Engine

if TYPE_CHECKING:
    from planloom.agents.roster import AgentRegistry
    from planloom.models.llm import LLM
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Journal, Model
    from planloom.runtime.checks import PlanSource
    from planloom.runtime.run import Run
    from planloom.tools.registry import ToolRegistry


async def execute_plan(
    plan: PlanSource,
    worker: SmallModelWorker | None = None,
    context: Mapping[str, Any] | None = None,
    limits: ResourceLimits | None = None,
    track_cost: bool = True,
    *,
    tools: Any = None,
    models: Mapping[str, LLM | Model | str] | None = None,
    agents: AgentRegistry | Mapping[str, Any] | Iterable[Any] | None = None,
    on_error: Literal["raise", "return"] = "raise",
    on_limit: Literal["raise", "return"] = "return",
    parallel: bool = True,
    journal: str | os.PathLike[str] | Journal | None = None,
    run_id: str | None = None,
) -> dict[str, Any]:
    """Run a plan to its end and return the result as a dict.

    Args:
        plan: A `Plan`, a dict in any of the forms, the path of a plan file, or its text.
        worker: Does steps that ask the default model, and tools that are only described; None: tools run directly.
        context: The plan's inputs.
        limits: In place of the plan's own.
        track_cost: False: no costs in the result.
        tools: A registry or a list of functions; None: the tools decorated in this process.
        models: Models by the names that the plan uses; "default" is the one of steps that say no other.
        agents: Agents by the names that the plan uses, or agents that have a name.
        on_error: What a failed run does: raise `ToolExecutionError`, or return like any other.
        on_limit: The same for a run stopped by a limit: `ResourceLimitError`, for time `PlanTimeoutError`.
        parallel: False: one step at a time, in stable topological order.
        journal: A path or a journal; None: in memory.
        run_id: Name of the run. If the journal has it, it is taken up where its record ends.

    Returns:
        `result`, `status`, `steps`, `cost`, `latency_ms`, `steps_completed`, `speedup`, `parallel_efficiency`,
        `critical_path_ms`, `exceeded_limits` and more: see `RunResult.to_dict`.

    Raises:
        PlanError: The plan or its inputs are wrong; nothing has happened.
        ToolExecutionError, ResourceLimitError, PlanTimeoutError: See above; `.partial` holds the whole dict.
    """
    if worker is not None:
        tools, models = _of_worker(worker, tools), {"default": worker.llm, **(models or {})}
    for name, value in (("on_error", on_error), ("on_limit", on_limit)):
        if value not in ("raise", "return"):
            raise ConfigError(f"{name}={value!r} is not known", remedy='use "raise" or "return"')
    async with Engine(journal, tools=tools, models=models, agents=agents) as engine:
        run = await _known(engine, run_id, plan, context)
        if run is None:
            run = await engine.start(
                plan, context, limits=limits, run_id=run_id, parallel=parallel, track_cost=track_cost
            )
        result = await engine.finish(run)
    _raise_for(result, on_error=on_error, on_limit=on_limit)
    return result.to_dict()


def run_plan(plan: PlanSource, **options: Any) -> dict[str, Any]:
    """Do what `execute_plan` does from code that is not async.

    Raises:
        ConfigError: Called where an event loop runs already: await `execute_plan` there.
    """
    return blocking.run(execute_plan(plan, **options))


def _of_worker(worker: SmallModelWorker, tools: Any) -> ToolRegistry:
    if not isinstance(worker, SmallModelWorker):
        raise ConfigError(f"a {type(worker).__name__} is no worker", remedy="give a SmallModelWorker, or leave it out")
    return worker.registry(tools)


async def _known(engine: Engine, run_id: str | None, plan: PlanSource, context: Mapping[str, Any] | None) -> Run | None:
    """Return the run of that name, taken up again, or None if there is none yet."""
    if run_id is None:
        return None
    checked = engine.check(plan)
    try:
        first = (await engine.journal.read(run_id, limit=1))[0].event
    except RunNotFoundError:
        return None
    recorded = getattr(first, "plan", None), getattr(first, "inputs", None)
    if recorded != (checked, check_inputs(checked, context)):
        raise ConfigError(
            f"run {run_id} is on record with another plan or other inputs",
            remedy="give the same ones to resume it, or another run_id for a new run",
        )
    return await engine.resume(run_id)


def _raise_for(result: RunResult, *, on_error: str, on_limit: str) -> None:
    error: ToolExecutionError | ResourceLimitError
    if result.status is RunStatus.FAILED and on_error == "raise":
        failed = result.failed_step
        doer = result.step(failed).doer if failed is not None else result.plan
        error = ToolExecutionError(failed or "outputs", doer, result.error or "unknown error")
    elif result.status is RunStatus.LIMIT_EXCEEDED and on_limit == "raise":
        kind = PlanTimeoutError if "timeout_seconds" in result.exceeded_limits else ResourceLimitError
        error = kind(result.exceeded_limits)
    else:
        return
    error.partial = result.to_dict()
    raise error

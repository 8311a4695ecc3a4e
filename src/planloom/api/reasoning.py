"""ReasoningAgent: gives a task to an agent that reasons, and tells what came of it and what it took.

A thin door: each task is a plan of one agent step, run by an engine of its own.

Rule 1: what a task took is in its answer and never on the agent: one agent may work on many tasks at once.
Rule 2: nothing is kept from one task to the next, unless memory is asked for.
Rule 3: what failed raises; no error text is ever a result.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from pydantic import BaseModel, ValidationError

from planloom import blocking
from planloom.agents.memory import AgentMemory
from planloom.agents.metrics import AgentMetrics
from planloom.api.agent_run import ANSWER, run_of
from planloom.errors import ArgumentsError, ConfigError, OutputError, field_problems
from planloom.plan.values import as_json

if TYPE_CHECKING:
    from planloom.agents.reasoning import Reasoner
    from planloom.core.chat import Message
    from planloom.core.result import RunResult
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Journal

_log = logging.getLogger("planloom.agent")

CONTEXT_TOKENS = 4_000
"""Most tokens of what was said before that a task is told of."""
MANY = 16
"""Tasks of one call that are under way at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentResponse:
    """What came of a task.

    Attributes:
        result: What the agent answers; of a task that it could not complete, what there is.
        execution_history: What it did, in order: `iteration`, `task`, `tool`, `arguments`, `status` ("completed" or
            "failed"), `result`, `error`.
        completion_status: `is_complete`, `reasoning`, `missing_steps`, `next_action`.
        cost_usd: What it cost, None where no price is known.
        run_id: Names its record in the journal.
    """

    result: Any
    metrics: AgentMetrics
    execution_history: list[dict[str, Any]]
    completion_status: dict[str, Any]
    cost_usd: float | None = None
    run_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {
            "result": as_json(self.result, where="result"),
            "metrics": self.metrics.to_dict(),
            "execution_history": self.execution_history,
            "completion_status": self.completion_status,
            "cost_usd": self.cost_usd,
            "run_id": self.run_id,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """What an agent keeps, and where.

    Attributes:
        memory: What was said, added to by every task; None: nothing is kept.
        max_context_tokens: Most tokens of it that a task is told of.
        summarise: Sums up what of it does not fit, async or not; None: that is left out.
        state: Takes each result under `output_key`: a dict, or anything with `set(key, value)`.
        journal: Where tasks go on record: a path or a journal; None: nowhere that outlives them.
        verbose: Whether what was done goes to the log as well.
    """

    memory: AgentMemory | None = None
    max_context_tokens: int = CONTEXT_TOKENS
    summarise: Callable[[list[Message]], Any] | None = None
    state: Any = None
    output_key: str | None = None
    journal: str | os.PathLike[str] | Journal | None = None
    verbose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """The pydantic models that tasks are given as, and that results come back as; None: plain JSON values."""

    input: type[BaseModel] | None = None
    output: type[BaseModel] | None = None


class Options(TypedDict, total=False):
    """What may be said of one task; see `ReasoningAgent.arun`."""

    run_id: str | None
    limits: ResourceLimits | None


@dataclass(frozen=True, slots=True, eq=False)
class ReasoningAgent:
    """An agent that plans, acts and checks until a task is done. `create_agent` makes one.

    Attributes:
        definition: What it is made of; plans may name it where it is registered.
        limits: What each of its tasks may use; None: they are not limited.
    """

    definition: Reasoner
    keeping: Keeping = field(default_factory=Keeping)
    forms: Forms = field(default_factory=Forms)
    limits: ResourceLimits | None = None

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def memory(self) -> AgentMemory | None:
        return self.keeping.memory

    @property
    def state(self) -> Any:
        return self.keeping.state

    @overload
    def run(self, task: Any, *, return_metrics: Literal[True] = True, **options: Unpack[Options]) -> AgentResponse: ...
    @overload
    def run(self, task: Any, *, return_metrics: bool, **options: Unpack[Options]) -> Any: ...
    def run(self, task: Any, *, return_metrics: bool = True, **options: Unpack[Options]) -> Any:
        """Do what `arun` does from code that is not async.

        Raises:
            ConfigError: Called where an event loop runs already: await `arun` there.
        """
        return blocking.run(self.arun(task, return_metrics=return_metrics, **options))

    @overload
    async def arun(
        self, task: Any, *, return_metrics: Literal[True] = True, **options: Unpack[Options]
    ) -> AgentResponse: ...
    @overload
    async def arun(self, task: Any, *, return_metrics: bool, **options: Unpack[Options]) -> Any: ...
    async def arun(self, task: Any, *, return_metrics: bool = True, **options: Unpack[Options]) -> Any:
        """Have the agent do a task; return an `AgentResponse`, or, without metrics, its result alone.

        A task that it cannot complete is answered too: see `metrics.task_completed` and `completion_status`.

        Args:
            task: Text, or any JSON value that fits the agent's input schema.
            run_id: Names the task in the agent's journal. One that is there already goes on where its record ends.
            limits: What it may use, in place of the agent's own `limits`; one on record keeps those it began with.

        Raises:
            ResourceLimitError: It was stopped by a limit, `PlanTimeoutError` by that of time; `.partial` is its run.
            ModelError: The model's own, if it gives no answer.
            OutputError: The model does not answer in the form it is asked for, asked twice.
            ArgumentsError: The task does not fit the agent's input schema.
            RunBlockedError: The task was broken off in a call that may be made only once; a person must say what
                came of it.
            ConfigError: `run_id` without a journal, or of another task.
        """
        response = await self._done(task, **options)
        return response if return_metrics else response.result

    async def arun_many(
        self,
        tasks: Iterable[Any],
        *,
        limit: int = MANY,
        return_metrics: bool = True,
        return_exceptions: bool = False,
        limits: ResourceLimits | None = None,
    ) -> list[Any]:
        """Do many tasks and return what `arun` returns for each, in their order.

        Args:
            limit: Tasks under way at the same time.
            limits: Of each task by itself; see `arun`.
            return_exceptions: Whether the place of a task that failed holds its exception; else the first one that
                fails stops the others and is raised.
        """
        if limit < 1:
            raise ConfigError(f"limit={limit} lets nothing begin", remedy="give 1 or more")
        places = asyncio.Semaphore(limit)

        async def one(task: Any) -> Any:
            async with places:
                return await self.arun(task, return_metrics=return_metrics, limits=limits)

        doing = [asyncio.create_task(one(task)) for task in tasks]
        try:
            return list(await asyncio.gather(*doing, return_exceptions=return_exceptions))
        finally:
            for each in doing:
                each.cancel()
            await asyncio.gather(*doing, return_exceptions=True)

    def run_many(self, tasks: Iterable[Any], **options: Any) -> list[Any]:
        """Do what `arun_many` does from code that is not async."""
        return blocking.run(self.arun_many(tasks, **options))

    # --- inside ---------------------------------------------------------------------------------

    async def _done(self, task: Any, run_id: str | None = None, limits: ResourceLimits | None = None) -> AgentResponse:
        keeping = self.keeping
        if run_id is not None and keeping.journal is None:
            raise ConfigError(
                f"run_id={run_id!r} names nothing: this agent has no journal", remedy="give create_agent journal="
            )
        told = as_json(_read(self.forms.input, task), where="task")
        said = await self._remembered()
        definition = replace(self.definition, if_incomplete="answer")
        limits = self.limits if limits is None else limits
        run = await run_of(definition, told, said, journal=keeping.journal, run_id=run_id, limits=limits)
        response = self._response(run)
        self._keep(told, response)
        return response

    async def _remembered(self) -> list[Any]:
        keeping = self.keeping
        if keeping.memory is None:
            return []
        summarise = keeping.summarise

        async def summed_up(messages: list[Message]) -> str:
            assert summarise is not None
            text = summarise(messages)
            return str(await text if isawaitable(text) else text)

        said = await keeping.memory.acontext(keeping.max_context_tokens, None if summarise is None else summed_up)
        found: list[Any] = as_json(said, where="memory")
        return found

    def _response(self, run: RunResult) -> AgentResponse:
        step = run.step(ANSWER)
        told: Mapping[str, Any] = step.metadata or {}
        metrics = AgentMetrics.from_dict(told["metrics"])
        result = step.output
        if self.forms.output is not None and metrics.task_completed:
            result = _formed(self.forms.output, result)
        return AgentResponse(
            result=result,
            metrics=metrics,
            execution_history=told["execution_history"],
            completion_status=told["completion_status"],
            cost_usd=step.cost_usd,
            run_id=run.run_id,
        )

    def _keep(self, task: Any, response: AgentResponse) -> None:
        keeping = self.keeping
        answered = as_json(response.result, where="result")
        if keeping.memory is not None:
            keeping.memory.add_exchange(task, answered)
        if keeping.output_key is not None:
            if isinstance(keeping.state, dict):
                keeping.state[keeping.output_key] = response.result
            else:
                keeping.state.set(keeping.output_key, response.result)
        if keeping.verbose:
            for entry in response.execution_history:
                _log.info("%s: %s with %s: %s", self.name, entry["task"], entry["tool"] or "no tool", entry["status"])
            _log.info("%s: %s", self.name, response.completion_status)


def _read(form: type[BaseModel] | None, task: Any) -> Any:
    """Return the task in the form of the agent's input.

    Raises:
        ArgumentsError: It does not fit.
    """
    if form is None or isinstance(task, form):
        return task
    try:
        return form.model_validate(task)
    except ValidationError as error:
        told = "; ".join(field_problems(error))
        raise ArgumentsError(f"the task is no {form.__name__}: {told}", remedy=f"give a {form.__name__}") from error


def _formed(form: type[BaseModel], result: Any) -> BaseModel:
    """Return the result in the form of the agent's output.

    Raises:
        OutputError: It fits the form's JSON Schema, and not what the form checks beyond that.
    """
    try:
        return form.model_validate(result)
    except ValidationError as error:
        raise OutputError(
            f"the result is no {form.__name__}: {'; '.join(field_problems(error))}",
            remedy="tell the agent in `system` what no JSON Schema can say",
        ) from error

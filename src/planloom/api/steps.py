"""StepExecutor: single steps of agents and tools, done as plans by an engine of its own.

A thin door: it looks at what it is given, puts it as a plan, has an engine run it, and says what came of it.

Rule 1: nothing of a step is kept when it is done; what is kept on purpose (answers, numbers) is asked for.
Rule 2: an agent that fails gives an error dict; a request that cannot be taken raises; a cancellation always raises.
Rule 3: answer i belongs to step i; what cannot be read is refused before any of them runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from planloom.agents.roster import AgentRegistry, definition_of
from planloom.api.step_answers import AnsweringAgent, StepAnswer, effects_of, is_repeatable
from planloom.api.step_engine import StepEngine
from planloom.api.step_forms import ExecutionStep, RetryConfig, StepType, context_of_tools, seconds
from planloom.api.step_metrics import StepMetrics
from planloom.api.step_parts import AgentPart, Outcomes, Part, ToolsPart
from planloom.api.step_plan import AgentTerms, KnownPlans, StepPlan, at_once
from planloom.api.step_replay import Replay, replay_run
from planloom.api.step_request import (
    MAX_REQUEST_BYTES,
    SUSPECTED,
    Injection,
    RequestRules,
    as_metadata,
    prepared_memory,
)
from planloom.core.events import OutputStreamed
from planloom.core.result import RUN_ENDED, RunStatus, StepStatus
from planloom.errors import ConfigError, JournalError, StepError
from planloom.plan.policy import NO_RETRY, CachePolicy, Effects
from planloom.runtime.engine import Engine
from planloom.runtime.settings import Settings
from planloom.tools.registry import ToolRegistry
from planloom.tools.tool import Tool

if TYPE_CHECKING:
    import os

    from planloom.agents.memory import AgentMemory
    from planloom.core.result import RunResult
    from planloom.plan.policy import RetryPolicy
    from planloom.ports import Clock, Journal
    from planloom.runtime.checks import PlanSource
    from planloom.runtime.run import Run
    from planloom.sandbox.program import SandboxResult

STOP_S = 2.0
"""Seconds that an agent has to end once nobody listens to it any more."""
MEMORY_LIMIT = "100MB"
CPU_LIMIT = 0.5


class StepExecutor:
    """Does single steps. An async context manager; `close` lets go of its engine.

    Args:
        agent_registry: The agents that may be asked; also agents by name, or agents that have a name.
        retry_config: When to try again; None: three attempts, see `RetryConfig`.
        timeout_seconds: For one attempt of an agent, and of a tool that has no `timeout_seconds` of its own.
        clock: Time; None: the real one.
        debug: Whether `internal_error` dicts say what went wrong.
        max_request_bytes: Largest request, in UTF-8.
        injection: What to do about requests that look like injected instructions: "off", "flag" or "block".
        journal: Where steps are on record: a path or a journal; None: nowhere beyond their own call.
        tools: Tools besides those of `register_tool`.
        models: For agents that reason; see `Engine`.
        effects: What asking an agent again would do, where the agent itself (`agent.effects`) says nothing.
        cache_size: How many answers of agents that change nothing are kept for the same question; 0: none.
        metrics: Counts agent steps; None: nobody looks at the numbers.
        settings: Of the engine.
    """

    def __init__(
        self,
        agent_registry: AgentRegistry | Mapping[str, Any] | Iterable[Any],
        retry_config: RetryPolicy | None = None,
        *,
        timeout_seconds: float = 30.0,
        clock: Clock | None = None,
        debug: bool = False,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        injection: Injection = "off",
        journal: str | os.PathLike[str] | Journal | None = None,
        tools: Any = (),
        models: Mapping[str, Any] | None = None,
        effects: Effects | str = Effects.IDEMPOTENT,
        cache_size: int = 0,
        metrics: StepMetrics | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.agent_registry = AgentRegistry.of(agent_registry)
        self.retry_config = retry_config or RetryConfig()
        self.timeout_seconds = seconds(timeout_seconds)
        self.debug = debug
        self._rules = RequestRules(max_bytes=max_request_bytes, injection=injection)
        self._tools = ToolRegistry(ToolRegistry.of(tools).tools())
        self._models = models
        self._clock = clock
        self._effects = Effects(effects)
        # Not `_cache` nor `_metrics`: programs have subclasses of this class that keep their own things there.
        self._caching = CachePolicy() if cache_size else None
        self._settings = (settings or Settings()).model_copy(update={"cache_size": cache_size})
        self._books = metrics or StepMetrics()
        self._plans = KnownPlans()
        self._engine = StepEngine(journal, self._make_engine, self._parts, key=self._settings.journal_key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the engine: what is under way is stopped. Used again, the executor gets another one."""
        await self._engine.close()

    @property
    def journal(self) -> Journal:
        """Return where steps are on record."""
        return self._engine.journal

    # --- agents ---------------------------------------------------------------------------------

    async def execute_agent_step(
        self,
        agent_name: str,
        request: Any,
        memory: AgentMemory | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Ask an agent, with retries, and return its answer as a dict (see `answer_of`), or an error dict.

        An error dict has `error` and `error_type`: "agent_not_found" with `suggestions`, "timeout" with
        `timeout_seconds`, "resource_limit" with `memory_usage`, "internal_error" with `details` (None unless `debug`).

        Args:
            request: Text, or whatever has a JSON form.
            memory: What was said so far; it is never changed.
            metadata: The agent gets it. `from_agent` and `tool_results` are added to its memory; `timeout` are
                seconds in place of `timeout_seconds`.

        Raises:
            ValidationError: The request is too large, or does not fit the agent's schema. The agent was not asked.
            SecurityError: The request looks like an injected instruction, and such are blocked.
            CancelledError: The step was cancelled.
        """
        step = ExecutionStep(StepType.AGENT, agent_name, request, metadata or {}, memory=memory)
        answer: dict[str, Any] = (await self._do([step]))[0]
        return answer

    async def stream_agent_step(
        self,
        agent_name: str,
        request: Any,
        memory: AgentMemory | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[str]:
        """Ask an agent and yield its answer in pieces as they come; closing the generator early stops the agent.

        An agent streams by an async generator `stream_step(request, context)`; any other gives one piece, its
        content. There is one attempt: what was heard cannot be taken back.

        Raises:
            AgentNotFoundError: There is no such agent.
            TimeoutError: It took longer than it may.
            StepError: It failed; what was yielded before is not its whole answer.
            ValidationError, SecurityError: As `execute_agent_step`.
        """
        self.agent_registry.get(agent_name)
        step = ExecutionStep(StepType.AGENT, agent_name, request, metadata or {}, memory=memory)
        with self._books.counting(1):
            part = self._part(step, None, {})
            plan = StepPlan(known=self._plans, retry=NO_RETRY, is_streamed=True)
            part.put(plan)
            pieces = 0
            async with self._engine.lent() as engine:
                run = await engine.start(plan.plan(), plan.inputs)
                try:
                    async for recorded in run.follow():
                        if isinstance(recorded.event, OutputStreamed):
                            pieces += 1
                            yield recorded.event.text
                    outcomes = await self._outcomes(engine, await run.result())
                finally:
                    await _stopped(engine, run)
                    self._engine.forget(run.run_id)
            answer = part.answer(outcomes)
        self._books.book(answer)
        _raise_for(answer, agent_name)
        if not pieces:
            yield str(answer.value.get("content", answer.value))

    # --- tools ----------------------------------------------------------------------------------

    def register_tool(
        self, tool_name: str, tool_func: Any, validation_schema: dict[str, Any] | None = None, **declared: Any
    ) -> Tool:
        """Register a function, sync or async, as a tool; one of that name is replaced for steps yet to come.

        Args:
            validation_schema: JSON Schema of its arguments, an object; None: what its signature says.
            declared: As for `@tool`, e.g. `effects="none"`: only a tool that says so, and has no breaker, is called
                again when it fails.

        Raises:
            ConfigError: It is no function, or the schema is none.
        """
        if isinstance(tool_func, Tool):
            tool = tool_func
        elif validation_schema is None:
            tool = Tool.from_function(tool_func, **{"name": tool_name} | declared)
        else:
            tool = Tool.from_schema(tool_name, tool_func, validation_schema, **declared)
        return self._tools.add(tool, replace=True)

    async def execute_tool_calls(
        self, tool_calls: Sequence[Any], context: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Call tools, all at once, and return what came of each, in the order of the calls.

        Each is ``{"tool_name", "result", "error", "execution_time"}``: `error` is a text, or None where the call went
        well; `execution_time` are seconds. A call that has an id gets it back as `tool_call_id`.

        Args:
            tool_calls: Each ``{"name", "arguments"}``, as providers write them, or `ToolCall`s.
            context: `allow`: names of the tools that may be called; `timeout`: seconds for a call.

        Raises:
            ValidationError: `tool_calls` is no list.
        """
        step = ExecutionStep(StepType.TOOL, tool_calls=tool_calls)
        results: list[dict[str, Any]] = (await self._do([step], context=context))[0]
        return results

    # --- many -----------------------------------------------------------------------------------

    async def execute_parallel_steps(
        self,
        steps: Sequence[ExecutionStep | Mapping[str, Any]],
        memory: AgentMemory | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        max_concurrent: int | None = None,
    ) -> list[Any]:
        """Do steps side by side; return for each what `execute_agent_step` or `execute_tool_calls` would.

        Args:
            memory: Each agent gets a copy of its own.
            context: As for `execute_tool_calls`.
            max_concurrent: Agents and tools under way at once; then those of higher `priority` go first.

        Raises:
            ValidationError: A step of an unknown type, or a request that cannot be taken. Nothing was done.
        """
        read = [ExecutionStep.read(step, place) for place, step in enumerate(steps)]
        return await self._do(read, memory, context, max_concurrent=max_concurrent)

    async def execute_batch(
        self, requests: Iterable[ExecutionStep | Mapping[str, Any]], *, max_concurrent: int = 10
    ) -> list[Any]:
        """Do many steps, a few at a time; return what came of each, in their order.

        As `execute_parallel_steps`, but a request that cannot be taken costs itself only: its answer is an error dict
        of the type "invalid_request".

        Args:
            requests: Steps, or dicts of `agent_name`, `request`, `memory`, `metadata`, `priority`.
            max_concurrent: Agents and tools under way at once.
        """
        refused: dict[int, Any] = {}
        parts: dict[int, Part] = {}
        for place, given in enumerate(requests):
            try:
                parts[place] = self._part(ExecutionStep.read(given, place), None, {})
            except ConfigError as error:
                refused[place] = {"error": str(error), "error_type": "invalid_request"}
        answers = await self._run(list(parts.values()), max_concurrent)
        found = refused | dict(zip(parts, answers, strict=True))
        return [found[place] for place in sorted(found)]

    # --- code -----------------------------------------------------------------------------------

    async def execute_sandboxed(self, code: str, timeout: float = 5.0) -> SandboxResult:
        """Run code nobody has read: no network, 100 MB, half a core, and `timeout` seconds.

        Raises:
            NotInstalledError: There is no sandbox here.
        """
        from planloom.sandbox.sandbox import Sandbox  # an extra

        sandbox = Sandbox(memory_limit=MEMORY_LIMIT, cpu_limit=CPU_LIMIT, network_access=False)
        return await sandbox.execute(code, timeout=timeout)

    # --- the record -----------------------------------------------------------------------------

    async def replay(self, run_id: str, *, plan: PlanSource | None = None) -> Replay:
        """Tell a run of the journal again; see `replay_run`. `(await executor.journal.runs())` lists them."""
        return await replay_run(self.journal, run_id, plan=plan)

    # --- inside ---------------------------------------------------------------------------------

    def _parts(self) -> dict[str, Any]:
        agents = {f"agent {name}": agent for name, agent in self.agent_registry.all().items()}
        return agents | {f"tool {tool.name}": tool for tool in self._tools}

    def _make_engine(self, journal: Journal) -> Engine:
        agents = self.agent_registry.all().items()
        return Engine(
            journal,
            tools=self._tools,
            agents={name: AnsweringAgent.of(agent, self._effects) for name, agent in agents},
            models=self._models,
            settings=self._settings,
            clock=self._clock,
        )

    async def _do(
        self,
        steps: Sequence[ExecutionStep],
        memory: AgentMemory | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        max_concurrent: int | None = None,
    ) -> list[Any]:
        asked = sum(step.step_type == StepType.AGENT for step in steps)
        with self._books.refusing(asked):
            told = context_of_tools(context)
            parts = [self._part(step, memory, told) for step in steps]
        return await self._run(parts, max_concurrent)

    def _part(self, step: ExecutionStep, memory: AgentMemory | None, context: Mapping[str, Any]) -> Part:
        """Return a step as a part of a plan.

        Raises:
            ValidationError, SecurityError: It cannot be taken.
        """
        step.check()
        if step.step_type == StepType.TOOL:
            return ToolsPart.of(
                step.tool_calls,
                self._tools,
                context,
                timeout_s=self.timeout_seconds,
                priority=step.priority,
                is_spared=bool(self._settings.breakers),
            )
        metadata = as_metadata(step.metadata)
        agent = self.agent_registry.all().get(step.agent_name)
        timeout_s = seconds(metadata.get("timeout", self.timeout_seconds))
        if agent is None:
            given, how = None, AgentTerms(timeout_s=timeout_s)
        else:
            effects = effects_of(agent, self._effects)
            told = None if definition_of(agent) is not None else effects
            how = AgentTerms(timeout_s=timeout_s, effects=told, is_repeatable=is_repeatable(agent, effects))
            given = self._given(step, agent, memory if step.memory is None else step.memory, metadata)
        return AgentPart(
            name=step.agent_name,
            given=given,
            how=how,
            known=self.agent_registry.names(),
            priority=step.priority,
            debug=self.debug,
        )

    def _given(
        self, step: ExecutionStep, agent: Any, memory: AgentMemory | None, metadata: dict[str, Any]
    ) -> dict[str, Any]:
        request, suspected = self._rules.checked(step.request, step.agent_name, agent)
        own = prepared_memory(memory, request, metadata)
        if suspected:
            metadata[SUSPECTED] = list(suspected)
        return {"input": request, "memory": own.to_dict(), "metadata": metadata}

    async def _run(self, parts: Sequence[Part], max_concurrent: int | None) -> list[Any]:
        """Do the parts as one plan; return their answers in their order."""
        agents = [part for part in parts if isinstance(part, AgentPart)]
        with self._books.counting(len(agents)):
            plan = StepPlan(known=self._plans, retry=self.retry_config, cache=self._caching)
            for part in parts:
                part.put(plan)
            outcomes = await self._outcomes_of(plan, max_concurrent) if plan else Outcomes()
            answers = [part.answer(outcomes) for part in parts]
        for part, answer in zip(parts, answers, strict=True):
            if isinstance(part, AgentPart):
                self._books.book(answer)
        return [answer.value for answer in answers]

    async def _outcomes_of(self, plan: StepPlan, max_concurrent: int | None) -> Outcomes:
        async with self._engine.lent() as engine:
            run = await engine.start(plan.plan(), plan.inputs, limits=at_once(max_concurrent))
            try:
                result = await engine.finish(run)
                if result.status is RunStatus.CANCELLED:
                    raise asyncio.CancelledError(f"run {run.run_id} was cancelled")
                return await self._outcomes(engine, result)
            finally:
                self._engine.forget(run.run_id)

    async def _outcomes(self, engine: Engine, result: RunResult) -> Outcomes:
        is_well = all(step.status is StepStatus.COMPLETED for step in result.steps)
        record = [] if is_well else await engine.journal.read(result.run_id)
        return Outcomes.of(result.run_id, result.steps, record)


async def _stopped(engine: Engine, run: Run) -> None:
    """See to it that a run has ended, and let go of it."""
    if run.status not in RUN_ENDED:
        with suppress(TimeoutError, JournalError, ConfigError):
            async with asyncio.timeout(STOP_S):
                await run.cancel(by="caller", reason="nobody listens any more")
                await run.result()
    await engine.release(run.run_id)


def _raise_for(answer: StepAnswer, agent_name: str) -> None:
    """Raise what an error dict tells, where a stream has no dict to give."""
    if not answer.is_error:
        return
    told = answer.value
    if told["error_type"] == "timeout":
        raise TimeoutError(f"{told['error']} after {told['timeout_seconds']:g} s")
    if told["error_type"] == "resource_limit":
        raise StepError(told["error"], remedy="ask for less at once", **told)
    raise StepError(
        f"agent {agent_name!r} failed: {told['details'] or told['error']}",
        remedy="debug=True tells more",
        agent=agent_name,
    )

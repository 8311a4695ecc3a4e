"""Agent steps: a task for an agent, done by the loop of `agents.thinking`, or by an agent of another kind.

Rule 1: every answer of a model goes through a `Meter`, every tool through `ToolCalls`, and both through `Inner`: each
is counted, granted and on record by itself, so that an attempt after a crash asks only for what is missing.
Rule 2: an agent has the tools of its definition, or, if that says nothing, those its step names. The step, the plan
and their caller can only narrow them.
Rule 3: a tool that its model asks for and that is not among these is not called: its model is told that there is none
of that name, and the denial is on record.
Rule 4: what an agent could not complete is no output, unless its definition says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from planloom.agents.reasoning import Reasoner
from planloom.agents.roster import AgentRegistry, definition_of, model_ref
from planloom.agents.thinking import Thought, think
from planloom.core.asking import messages_of, text_of
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.result import StepOutcome
from planloom.errors import ArgumentsError, IncompleteError, InnerCallError, NotAllowedError, OutputError
from planloom.executors import classify
from planloom.executors.calls import CallCost, ToolCalls, check_grant, context_for
from planloom.executors.foreign_agent import ask_foreign, memory_of, named_tools
from planloom.executors.inner import MODEL, TOOL, Inner, is_unknown
from planloom.executors.meter import Meter
from planloom.models.structured import problems_of
from planloom.plan.model import DEFAULT_AGENT
from planloom.plan.policy import Effects
from planloom.tools.registry import ToolRegistry

if TYPE_CHECKING:
    from planloom.core.commands import RunStep
    from planloom.models.catalogue import Models
    from planloom.ports import AttemptContext
    from planloom.tools.tool import Tool

INPUT, MEMORY, METADATA = "input", "memory", "metadata"
"""Arguments of an agent step that mean something: the value it is given, what was said before, what its caller adds."""


@dataclass(frozen=True, slots=True)
class AgentExecutor:
    """Does agent steps, and task steps with the agent called "default".

    Attributes:
        calls: Calls the engine's tools; an agent's own go through the same threads and guards.
    """

    registry: AgentRegistry
    models: Models
    calls: ToolCalls

    async def execute(self, request: RunStep, context: AttemptContext) -> StepOutcome:
        name = request.step.agent_name or DEFAULT_AGENT
        agent = self.registry.get(name)
        definition = definition_of(agent)
        if definition is None:
            return await ask_foreign(agent, name, request, context, self.calls.threads)
        working = _Working.of(name, _as_the_step_says(definition, request), self, request, context)
        return await working.outcome()


@dataclass(frozen=True, slots=True)
class _Working:
    """One attempt of one agent."""

    ref: str
    """Its model's name among the run's."""
    definition: Reasoner
    models: Models
    calls: ToolCalls
    request: RunStep
    context: AttemptContext
    inner: Inner
    others: tuple[ToolRegistry, ...] = ()
    """Where tools are looked up that it asks for and does not have."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Key and model of each answer so far."""
    heard: list[str] = field(default_factory=list)
    """What was streamed of the result so far."""

    @classmethod
    def of(
        cls, name: str, definition: Reasoner, executor: AgentExecutor, request: RunStep, context: AttemptContext
    ) -> _Working:
        tools = _tools(definition, executor.calls, request)
        return cls(
            model_ref(name, definition),
            replace(definition, tools=tools),
            executor.models,
            replace(executor.calls, registry=tools),
            request,
            context,
            Inner(request, context),
            (executor.calls.registry, *([] if definition.tools is None else [definition.tools])),
        )

    async def outcome(self) -> StepOutcome:
        """Have the task done.

        Raises:
            IncompleteError: It could not be, and the definition does not take that for an answer.
        """
        definition, request, context = self.definition, self.request, self.context
        is_priced = self._has_price()
        if is_priced and context.reported_usd is None:
            context.report_usd(0.0)
        task, memory = _task_of(definition, request), memory_of(request).messages
        try:
            thought = await think(
                definition,
                task,
                ask=self._ask,
                call_tool=self._call_tool,
                tell=self._tell if request.step.stream else None,
                memory=memory,
                now=context.clock.now,
                refused=self._refused,
            )
        except OutputError as error:
            for key, uri in self.asked[-2:]:  # asked twice: an attempt after this one must not be given the same again
                self.inner.void(key, uri, error.message)
            raise
        if not thought.metrics.task_completed and definition.if_incomplete == "error":
            raise _incomplete(thought, request)
        if request.step.stream and isinstance(thought.result, str) and not self.heard:
            context.stream(thought.result)  # there is nothing of it before there is all of it
        told = {
            "model": str(self._meter(context).llm(self.ref).uri),
            "metrics": thought.metrics.to_dict(),
            "execution_history": thought.execution_history,
            "completion_status": thought.completion_status,
        }
        return StepOutcome(
            thought.result, context.reported_usage, context.reported_usd if is_priced else None, metadata=told
        )

    def _has_price(self) -> bool:
        facts = self.request.models.get(self.ref)
        return facts is not None and facts.price is not None

    def _meter(self, context: AttemptContext) -> Meter:
        return Meter(context, self.request, self.models)

    async def _ask(self, call: ModelCall) -> LLMResponse:
        return await self._answered(call, lambda meter: meter.ask(self.ref, call))

    async def _tell(self, call: ModelCall) -> LLMResponse:
        """Ask for the result, streaming it; one that is on record comes whole."""
        return await self._answered(call, lambda meter: meter.stream(self.ref, call, self._hear))

    def _hear(self, piece: str) -> None:
        self.heard.append(piece)
        self.context.stream(piece)

    async def _answered(self, call: ModelCall, ask: Callable[[Meter], Awaitable[LLMResponse]]) -> LLMResponse:
        uri = str(self._meter(self.context).llm(self.ref).uri)

        async def asked(counted: AttemptContext) -> dict[str, Any]:
            return (await ask(self._meter(counted))).to_dict()

        key = self.inner.key(MODEL, self.ref, call)
        self.asked.append((key, uri))
        return LLMResponse.from_dict(await self.inner.once(key, asked, name=uri, kind=MODEL))

    async def _call_tool(self, name: str, arguments: dict[str, Any]) -> Any:
        """Return what a tool came to.

        Raises:
            ArgumentsError: The arguments do not fit; it was not called.
            InnerCallError: It failed, now or in an earlier attempt.
            NotAllowedError: The step may not use it.
            GrantError: The step has no call left.
            FlowError: It would be given what it must not have; it was not called.
        """
        tool = self.calls.find(name, self.request)
        tool.validate(arguments)
        effects = tool.effects or Effects.ONCE
        key = self.inner.key(TOOL, tool.name, arguments)
        if key not in self.request.recorded:
            self.inner.check_flow(tool, arguments, tells_model=True)
            check_grant([tool], self.request, self.context)
        try:
            return await self.inner.once(
                key,
                lambda counted: self._made(tool, arguments, key, counted),
                name=tool.name,
                kind=TOOL,
                effects=effects,
            )
        except InnerCallError:
            raise
        except Exception as error:
            unknown = is_unknown(classify.type_names(error), effects)
            raise InnerCallError(classify.text_of(error), is_unknown=unknown, call=tool.name) from error

    def _refused(self, name: str) -> None:
        """Put on record that the model asked for a tool that there is, and that the agent may not use here."""
        tool = next((tools.resolve(name) for tools in self.others if tools.resolve(name) is not None), None)
        if tool is not None:
            remedy = "give it to the agent, and allow it to the plan and its caller, if it may use it"
            text = f"the agent of step {self.request.key!r} may not use tool {tool!r}"
            error = NotAllowedError(text, remedy=remedy, step=self.request.key, tool=tool)
            self.inner.deny(tool, None, error)

    async def _made(self, tool: Tool, arguments: dict[str, Any], key: str, counted: AttemptContext) -> Any:
        request = self.request
        counted.report_call()
        cost = CallCost(counted, tool.cost_per_call)
        told = context_for(tool, request, counted, key=f"{request.idempotency_key}/{key}", on_cost=cost.report)
        return await self.calls.call_inside(tool, tool.bind(arguments, told), cost, request, counted)


# --- what the agent is given ------------------------------------------------------------------


def _as_the_step_says(definition: Reasoner, request: RunStep) -> Reasoner:
    """Return the definition with what its step says of the same: it may be given less to do, and another form."""
    step = request.step
    most = definition.max_iterations
    if step.agent is not None:
        most = min(most, step.agent.max_iterations)
    system = [text for text in (definition.system, request.args.get("system")) if text]
    return replace(
        definition,
        max_iterations=most,
        system="\n\n".join(system) or None,
        temperature=definition.temperature if step.temperature is None else step.temperature,
        max_tokens=definition.max_tokens if step.max_tokens is None else step.max_tokens,
        output_schema=definition.output_schema if step.output is None else step.output,
    )


def _tools(definition: Reasoner, calls: ToolCalls, request: RunStep) -> ToolRegistry:
    """Return the tools that the agent has in this step.

    Raises:
        NotAllowedError: The step names one that the agent does not have, or that it may not use.
        UnknownToolError: The step names one that is not here.
    """
    named = named_tools(request.step)
    if definition.tools is None:
        return calls.registry.restricted([calls.find(name, request).name for name in named or ()])
    own = definition.tools
    if named is None:  # an allowlist leaves it some of them
        return own.restricted([one.name for one in own if all(own.allows(one.name, allow) for allow in request.allow)])
    _check_its_own(named, definition, request)
    theirs = replace(calls, registry=own)
    return own.restricted([theirs.find(name, request).name for name in named])


def _check_its_own(named: Sequence[str], definition: Reasoner, request: RunStep) -> None:
    assert definition.tools is not None
    other = [name for name in named if name not in definition.tools]
    if other:
        raise NotAllowedError(
            f"step {request.key!r} gives agent {definition.name!r} the tool {other[0]!r}, which is none of its own",
            remedy=f"a step can only narrow an agent's tools: {', '.join(definition.tools.names()) or 'it has none'}",
            step=request.key,
            tool=other[0],
        )


def _task_of(definition: Reasoner, request: RunStep) -> str:
    """Return what the agent is asked to do.

    Raises:
        ArgumentsError: What it is given does not fit the agent's `input_schema`.
    """
    args = {name: value for name, value in request.args.items() if name not in (MEMORY, METADATA, "system")}
    if request.step.agent is None:
        args.setdefault("prompt", request.step.task or "")
    given = args[INPUT] if INPUT in args else args.get("prompt")
    if definition.input_schema is not None:
        problems = problems_of(given, definition.input_schema)
        if problems:
            raise ArgumentsError(
                f"what agent {definition.name!r} is given does not fit its schema: {'; '.join(problems)}",
                remedy="give it what its input_schema says",
                step=request.key,
            )
    if {name for name, value in args.items() if name != "prompt" or value} == {INPUT}:
        return text_of(given)
    return messages_of(args)[-1].content


def _incomplete(thought: Thought, request: RunStep) -> IncompleteError:
    status = thought.completion_status
    failed = [entry["error"] for entry in thought.execution_history if entry["error"] is not None]
    why = status["reasoning"] or "it does not say why"
    return IncompleteError(
        f"the agent of step {request.key!r} did not complete its task after "
        f"{thought.metrics.total_iterations} iteration(s): {why}" + (f"; last failure: {failed[-1]}" if failed else ""),
        remedy="give it what is missing, another tool, or more iterations",
        completion_status=status,
    )

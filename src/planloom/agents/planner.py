"""LargePlanner: a task in words becomes a plan, written by a large model and checked like anybody's.

Rule 1: what a model writes is untrusted: it goes through `load_plan`, `check_against` and `authority.py`, or it is no
plan. What is wrong with it the model is told, so often and no more.
Rule 2: every call is counted, also those whose answers were of no use.
Rule 3: a provider that fails is not asked again here: its error is the caller's to deal with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planloom.agents.authority import DEFAULT_MODELS, KINDS, Authority, Offered, found, offer, tools_in
from planloom.agents.binding import Binding, binding_schema, open_steps
from planloom.agents.estimate import estimate, rather, said_of, seen_in
from planloom.agents.optimise import optimise
from planloom.agents.planning_prompt import (
    asked_again,
    binding_messages,
    inputs_told,
    planning_messages,
    planning_schema,
    refining_messages,
    type_of,
)
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.result import Usage
from planloom.errors import ConfigError, ModelError, PlanError, PlanningError, plan_error
from planloom.models.llm import LLM, Asker, ask_plainly
from planloom.models.prompts import Prompt, messages_from
from planloom.plan.against import check_against
from planloom.plan.check import check_plan, together
from planloom.plan.inputs import check_inputs
from planloom.plan.load import load_plan
from planloom.plan.model import Plan
from planloom.tools.catalogue import ToolCatalog

if TYPE_CHECKING:
    from planloom.core.chat import Message
    from planloom.core.prices import ModelFacts, ModelPrice
    from planloom.core.result import RunResult, StepResult
    from planloom.plan.policy import ResourceLimits
    from planloom.ports import Model

PlanSource = Plan | Mapping[str, Any] | Path | str
ReadPlan = Callable[[str], Plan]
"""Makes a plan of an answer, or raises a PlanError with everything that is wrong with it."""


async def ask_for_plan(ask: Asker, llm: LLM, call: ModelCall, read: ReadPlan, *, max_attempts: int) -> Plan:
    """Return the first plan that holds of what a model answers, each time told what was wrong with the last answer.

    Args:
        ask: How the model is asked, and counted.
        call: The first one; later ones add the last answer and its problems.
        max_attempts: Answers in all, the first included.

    Raises:
        PlanningError: None of them holds; `.problems` are those of the last.
        ModelError: The model gave no answer.
    """
    problems: tuple[PlanError, ...] = ()
    messages = call.messages
    for _ in range(max_attempts):
        answer = await ask(llm, replace(call, messages=messages))
        try:
            return read(answer.text)
        except PlanError as error:
            problems = error.problems
        messages = asked_again(call.messages, answer.text, problems)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    answers = f"{max_attempts} answer{'s' * (max_attempts != 1)}"
    raise PlanningError(
        f"{llm.uri} wrote no plan that holds in {answers}; of the last: {problems[0].message}{more}",
        remedy="say more precisely what is wanted, see that the tools for it are there, or ask a stronger model",
        problems=problems,
        attempts=max_attempts,
    )


@dataclass(slots=True)
class _Tally:
    """What some calls used and cost."""

    ask: Asker
    price: ModelPrice | None
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = 0.0

    async def __call__(self, llm: LLM, call: ModelCall) -> LLMResponse:
        try:
            answer = await self.ask(llm, call)
        except ModelError as error:
            used = getattr(error, "usage", None)
            if isinstance(used, Usage):
                self.add(used)
            raise
        self.add(answer.usage)
        return answer

    def add(self, usage: Usage) -> None:
        self.usage += usage
        known = None if self.price is None else self.price.cost_usd(usage)
        self.cost_usd = _sum(self.cost_usd, known)


class LargePlanner:
    """Writes plans with a large model. Making one opens nothing and needs no key.

    Args:
        model: A name (``"gpt-4o"``), an address (``"openai://gpt-4o"``), an `LLM`, or a model.
        provider: Whose model it is, e.g. ``"openai"``; None: told by the name.
        temperature: 0 to 2.
        max_attempts: Answers it may take to get one plan.
        max_tools: Most tools the model is told of; of more, those that the task is about.
        max_tokens: Most tokens of one answer.
        max_steps: Most steps of a plan.
        models: Names that planned steps may use for models; facts of them, where given, tell what steps cost.
        price: What the planning model costs; None: as it says itself.
        past: Results of runs, which estimates are made from.
        ask: How the model is asked; None: plainly.

    Attributes:
        usage, cost_usd: Tokens and US dollars of the last call that ended; a cost is None where no price is known.
        total_usage, total_cost_usd: Of all calls so far.
        offered: Names of the tools that the model was told of last.
    """

    def __init__(
        self,
        model: str | LLM | Model = "gpt-4o",
        provider: str | None = None,
        temperature: float | None = 0.2,
        *,
        max_attempts: int = 3,
        max_tools: int = 10,
        max_tokens: int = 4096,
        max_steps: int = 100,
        models: Iterable[str] | Mapping[str, ModelFacts | None] = DEFAULT_MODELS,
        price: ModelPrice | None = None,
        past: Iterable[RunResult | StepResult] = (),
        ask: Asker = ask_plainly,
    ) -> None:
        numbers = {"max_attempts": max_attempts, "max_tools": max_tools, "max_tokens": max_tokens}
        for name, value in (numbers | {"max_steps": max_steps}).items():
            if value < 1:
                raise ConfigError(f"{name}={value} lets nothing be planned", remedy="give 1 or more")
        self.temperature = temperature
        self.max_attempts = max_attempts
        self.max_tools = max_tools
        self.max_tokens = max_tokens
        self.max_steps = max_steps
        self.usage, self.total_usage = Usage(), Usage()
        self.cost_usd: float | None = 0.0
        self.total_cost_usd: float | None = 0.0
        self.offered: tuple[str, ...] = ()
        self._named = model
        self._provider = provider
        self._llm: LLM | None = None
        self._models = frozenset(models)
        told = models if isinstance(models, Mapping) else {}
        self._facts = {name: facts for name, facts in told.items() if facts is not None}
        self._price = price
        self._seen = seen_in(past)
        self._ask = ask

    @property
    def llm(self) -> LLM:
        """Return its model, made when it is first asked for; connects to nothing.

        Raises:
            UnknownModelError: Nothing says whose model it is, or no adapter knows it.
            ConfigError: An extra is not installed.
        """
        if self._llm is None:
            self._llm = LLM.of(self._named, self._provider)
        return self._llm

    async def close(self) -> None:
        """Let go of the model's connections; it opens new ones if it is asked again."""
        if self._llm is not None:
            await self._llm.close()

    # --- plans ----------------------------------------------------------------------------------

    async def create_plan(
        self,
        task: str,
        tools: Any = None,
        context: Mapping[str, Any] | None = None,
        *,
        history: Prompt | None = None,
        limits: ResourceLimits | None = None,
    ) -> Plan:
        """Return a plan for a task: sound, within `tools`, allowed what it uses, with its cost and estimates.

        Args:
            task: What is to be done, in words.
            tools: What it may use: a catalogue, a registry, a list of tools, functions and definitions; None: the tools
                decorated in this process.
            context: What a run will be given. The model is told names, types and sizes, and short values; None: nobody
                knows yet, and the plan's `inputs` say what it needs.
            history: What was said before the task.
            limits: Become those of the plan, or lower ones if the model says so.

        Raises:
            PlanningError: The model wrote no plan that holds.
            ModelError: It gave no answer at all.
            MissingKeyError: There is no key for it.
            InputsError: `context` is no JSON.
        """
        if not task.strip():
            raise ConfigError("there is no task to plan", remedy="say in a sentence what is to be done")
        given = _json(context)
        offered = offer(ToolCatalog.of(tools), [task], limit=self.max_tools)
        authority = self._authority(offered, given, limits)
        messages = planning_messages(
            task,
            offered,
            inputs=None if given is None else inputs_told(given),
            models=self._models,
            kinds=authority.kinds,
            history=messages_from(history) if history else (),
        )
        call = self._call(messages, planning_schema(authority.kinds))
        return await self._planned(call, authority.read, offered)

    async def refine(
        self, plan: PlanSource, feedback: str, tools: Any = None, context: Mapping[str, Any] | None = None
    ) -> Plan:
        """Return a better version of a plan. Steps that stay as they are may be of any kind; `limits` stay.

        Args:
            feedback: What is to be different: words, an error, the result of a run.
            tools, context: As for `create_plan`; the tools that the plan uses come first.

        Raises: as `create_plan`; PlanError: The plan itself is not sound.
        """
        old = _sound(plan)
        given = _json(context)
        queries = [feedback, old.description, *(step.description for step in old.steps)]
        catalogue = ToolCatalog.of(tools)
        offered = offer(catalogue, filter(None, queries), limit=self.max_tools, always=tools_in(old))
        kept = {step.id: step for step in old.steps}
        authority = replace(self._authority(offered, given, old.limits), kept=kept, allow=old.allow)
        messages = refining_messages(
            old,
            feedback,
            offered,
            inputs=_told(given, old) or None,
            models=self._models,
            kinds=authority.kinds,
        )
        call = self._call(messages, planning_schema(authority.kinds))
        return await self._planned(call, authority.read, offered, instead_of=old)

    async def bind(self, plan: PlanSource, tools: Any = None, context: Mapping[str, Any] | None = None) -> Plan:
        """Return the plan with each `task` step, a line of English, made a tool step or a model step.

        Ids, needs and everything else stay as they are; a bound step may read only steps it needs. Without task steps
        it is the plan itself, and no model is asked.

        Raises: as `create_plan`; PlanError: The plan itself is not sound, or uses tools that are not here.
        """
        old = _sound(plan)
        tasks = open_steps(old)
        if not tasks:
            return old
        catalogue = ToolCatalog.of(tools)
        offered = offer(catalogue, [step.task or "" for step in tasks], limit=self.max_tools)
        known = Offered(catalogue, [*found(catalogue, tools_in(old)), *offered])
        problems = check_against(old, known)
        if problems:
            raise plan_error(problems)
        told = _told(_json(context), old)
        binding = Binding(
            plan=old, offered=offered, known=known, models=self._models, inputs=frozenset(one["name"] for one in told)
        )
        names = [step.id for step in tasks]
        messages = binding_messages(old, names, offered, inputs=told, models=self._models)
        return await self._planned(self._call(messages, binding_schema()), binding.read, known, instead_of=old)

    def validate_plan(self, plan: PlanSource, tools: Any = None) -> list[PlanError]:
        """Return everything that is wrong with a plan; nothing if it is sound.

        Args:
            tools: What it must get by with; None: it is looked at by itself.
        """
        catalogue = None if tools is None else ToolCatalog.of(tools)
        offered = None if catalogue is None else Offered(catalogue, catalogue.definitions())

        def also(read: Plan) -> list[PlanError]:
            return [] if offered is None else check_against(read, offered)

        if isinstance(plan, Plan):
            return together(check_plan(plan), also(plan))
        try:
            load_plan(plan, also=also)
        except PlanError as error:
            return list(error.problems)
        return []

    def optimize_plan(self, plan: PlanSource, tools: Any = None, *, drop_unused: bool = False) -> Plan:
        """Return a plan that comes to the same with less; see `optimise.optimise`.

        Args:
            tools: For what they declare of their effects; None: only what steps themselves say counts.

        Raises:
            PlanError: The plan is not sound.
        """
        catalogue = None if tools is None else ToolCatalog.of(tools)
        offered = None if catalogue is None else Offered(catalogue, catalogue.definitions())
        return optimise(_sound(plan), offered, drop_unused=drop_unused)

    # --- inside ---------------------------------------------------------------------------------

    def _authority(self, offered: Offered, given: Mapping[str, Any] | None, limits: ResourceLimits | None) -> Authority:
        return Authority(
            offered=offered,
            kinds=KINDS if self._models else KINDS - {"model"},
            models=self._models,
            max_steps=self.max_steps,
            inputs=None if given is None else {name: type_of(value) for name, value in given.items()},
            limits=limits,
        )

    def _call(self, messages: tuple[Message, ...], schema: dict[str, Any]) -> ModelCall:
        return ModelCall(messages=messages, max_tokens=self.max_tokens, temperature=self.temperature, output=schema)

    async def _planned(
        self, call: ModelCall, read: ReadPlan, offered: Offered, *, instead_of: Plan | None = None
    ) -> Plan:
        """Return the plan that the model writes, with what it cost and what a run of it is expected to."""
        llm = self.llm
        self.offered = tuple(offered.names())
        tally = _Tally(self._ask, self._price or llm.metadata.price)
        try:
            plan = await ask_for_plan(tally, llm, call, read, max_attempts=self.max_attempts)
        finally:
            self.usage, self.cost_usd = tally.usage, tally.cost_usd
            self.total_usage += tally.usage
            self.total_cost_usd = _sum(self.total_cost_usd, tally.cost_usd)
        before = 0.0 if instead_of is None or instead_of.cost is None else instead_of.cost
        expected = estimate(plan, rather(self._seen, said_of(offered)), self._facts)
        return replace(
            plan,
            cost=_sum(before, tally.cost_usd),
            estimated_cost=expected.cost_usd,
            estimated_latency_ms=expected.latency_ms,
        )


def _sound(source: PlanSource) -> Plan:
    """Return the plan of a source, checked; raises PlanError."""
    plan = load_plan(source)
    if plan is source:  # built in Python: nobody has looked at it yet
        problems = check_plan(plan)
        if problems:
            raise plan_error(problems)
    return plan


def _json(context: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if context is None else check_inputs(Plan(), context)


def _told(given: Mapping[str, Any] | None, plan: Plan) -> list[dict[str, Any]]:
    """Return what a model is told of the inputs of a plan that is there already."""
    if given is not None:
        return inputs_told(given)
    return [{"name": name, "schema": schema} for name, schema in plan.inputs.items()]


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other

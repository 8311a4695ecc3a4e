"""What a plan that a model wrote may do: the tools it was offered, and nothing that its caller did not allow.

Rule 1: deny by default: a field, a kind of step, a model or a tool that is not listed here or by the caller is refused.
Rule 2: what is refused is a problem that the model is told, never something taken out in silence.
Rule 3: a plan that gets through carries its own bounds: `allow` is the tools it uses, `limits` at most the caller's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from planloom.errors import (
    FieldError,
    InputsError,
    NotAllowedError,
    OutputError,
    PlanError,
    PlanSyntaxError,
    UnknownToolError,
    suggestion,
)
from planloom.models.structured import answer_value
from planloom.plan.against import check_against
from planloom.plan.graph import compile_plan
from planloom.plan.load import load_plan
from planloom.plan.model import Plan, Step
from planloom.plan.policy import Effects, ResourceLimits
from planloom.plan.rules import PLANNED_FIELDS, STRICTNESS
from planloom.tools.catalogue import ToolCatalog
from planloom.tools.definition import ToolDefinition

KINDS = frozenset({"tool", "model", "approve", "wait"})
"""Kinds of step that a plan of a model may have."""
DEFAULT_MODELS = frozenset({"default"})
FIELDS = PLANNED_FIELDS | KINDS
"""Fields of a step that a model may set."""


class Offered:
    """The tools a model was told of; satisfies `plan.against.Catalogue`."""

    def __init__(self, catalogue: ToolCatalog, definitions: Iterable[ToolDefinition]) -> None:
        self._catalogue = catalogue
        self._by_name = {one.name: one for one in definitions}

    def __iter__(self) -> Iterator[ToolDefinition]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def names(self) -> list[str]:
        return list(self._by_name)

    def resolve(self, name: str) -> str | None:
        """Return the canonical name behind any spelling, of tools that were not offered as well: those are refused."""
        try:
            return self._catalogue.get_tool(name).name
        except (UnknownToolError, NotAllowedError):
            return None

    def expanded(self, allow: Iterable[str] | None) -> frozenset[str]:
        if allow is None:
            return frozenset(self._by_name)
        entries = list(allow)
        named = {self.resolve(entry) for entry in entries if not entry.endswith(".*")}
        prefixes = tuple(entry[:-1] for entry in entries if entry.endswith(".*"))
        return frozenset(name for name in self._by_name if name in named or name.startswith(prefixes))

    def schema(self, name: str) -> dict[str, Any]:
        return self._by_name[name].input_schema

    def effects(self, name: str) -> Effects | None:
        return self._by_name[name].effects


def offer(catalogue: ToolCatalog, queries: Iterable[str], *, limit: int, always: Iterable[str] = ()) -> Offered:
    """Return the tools that some texts are about, at most `limit`: the best of each text before the second best.

    Args:
        always: Names of tools that are offered whatever the texts say, however many; those not here are left out.
    """
    chosen = {one.name: one for one in found(catalogue, always)}
    limit = max(limit, len(chosen))
    definitions = catalogue.definitions()
    if len(definitions) <= limit:
        chosen |= {one.name: one for one in definitions}
    else:
        ranked = [[one for one, _ in catalogue.search(query, limit=limit)] for query in queries]
        for rank in range(limit):
            chosen |= {row[rank].name: row[rank] for row in ranked if rank < len(row)}
    # Nothing may share a word with the task: it can be in another language than the tools.
    return Offered(catalogue, (list(chosen.values()) or definitions)[:limit])


def found(catalogue: ToolCatalog, names: Iterable[str]) -> list[ToolDefinition]:
    """Return the tools of these names, those that are not here left out."""
    there = []
    for name in names:
        try:
            there.append(catalogue.get_tool(name))
        except (UnknownToolError, NotAllowedError):
            continue
    return there


def tools_in(plan: Plan) -> list[str]:
    """Return the names of the tools that the steps of a plan name, in plan order."""
    names: dict[str, None] = {}
    for step in plan.steps:
        chosen = (step.tools, step.agent.tools if step.agent else (), step.code.tools if step.code else ())
        listed = [step.tool, *(name for some in chosen for name in some or ())]
        listed += tools_in(step.plan) if isinstance(step.plan, Plan) else ()
        names |= dict.fromkeys(name for name in listed if name is not None)
    return list(names)


def chooses_tools(plan: Plan) -> bool:
    """Return whether a step of a plan may use tools that the plan does not name."""
    return any(
        (step.agent is not None and step.agent.tools is None)
        or (step.task is not None and step.tools is None)
        or (isinstance(step.plan, Plan) and chooses_tools(step.plan))
        for step in plan.steps
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """What a plan may do, whoever's model wrote it.

    Attributes:
        offered: Tools it may use.
        kinds: Kinds of step it may have.
        models: Names it may use for models.
        inputs: JSON Schema of what the run will be given, by name; None: the plan says what it needs.
        limits: Most it may take; None: no limits.
        may_limit: Whether it may have limits of its own; inside a run there is one budget.
        kept: Steps of an earlier plan, by id; one that comes back as it was is none of the model's doing.
        allow: Tools that the earlier plan allowed; it goes on to if one of its steps chooses its tools itself.
    """

    offered: Offered
    kinds: frozenset[str] = KINDS
    models: frozenset[str] = DEFAULT_MODELS
    max_steps: int = 100
    inputs: Mapping[str, dict[str, Any]] | None = None
    limits: ResourceLimits | None = None
    may_limit: bool = True
    kept: Mapping[str, Step] = field(default_factory=dict)
    allow: tuple[str, ...] | None = None

    def read(self, answer: str) -> Plan:
        """Return the plan of an answer, with its bounds set.

        Raises:
            PlanError: Everything that is wrong with it, in `.problems`.
        """
        document = read_object(answer)
        if self.inputs and isinstance(document.get("inputs") or {}, dict):
            document["inputs"] = {**(document.get("inputs") or {}), **self.inputs}
        return self.bounded(load_plan(document, also=self.problems))

    def problems(self, plan: Plan) -> list[PlanError]:
        """Return every reason why a model may not write this plan."""
        found: list[PlanError] = [*self._head(plan)]
        for place, step in enumerate(plan.steps):
            if self.kept.get(step.id) != step:
                problems = [*self._step(step, place)]
                for problem in problems:
                    problem.step = step.id
                found += problems
        return found + check_against(plan, self.offered)

    def bounded(self, plan: Plan) -> Plan:
        """Return the plan with `allow`, `inputs` and `limits` as they must be, and nothing said of its cost yet."""
        used = {self.offered.resolve(name) or name for name in tools_in(plan)}
        return replace(
            plan,
            allow=self.allow if chooses_tools(plan) else tuple(sorted(used)),
            inputs=plan.inputs if self.inputs is None else _inputs_of(plan, self.inputs),
            limits=_lower(plan.limits, self.limits),
            cost=None,
            estimated_cost=None,
            estimated_latency_ms=None,
        )

    # --- the parts of a plan ---

    def _head(self, plan: Plan) -> Iterator[PlanError]:
        if not plan.steps:
            yield FieldError("the plan has no steps", remedy="write at least one", path=("steps",))
        if len(plan.steps) > self.max_steps:
            message = f"the plan has {len(plan.steps)} steps, the most is {self.max_steps}"
            yield FieldError(message, remedy="do it with fewer, e.g. with for_each", path=("steps",))
        if plan.limits is not None and not self.may_limit:
            yield FieldError("this plan may have no limits of its own", remedy="take them out", path=("limits",))
        for name in _above(plan.limits, self.limits):
            remedy = f"leave it out, or stay at {getattr(self.limits, name)}"
            yield FieldError(f"the limit {name!r} is above the one given", remedy=remedy, path=("limits", name))
        yield from self._inputs(plan)

    def _inputs(self, plan: Plan) -> Iterator[PlanError]:
        if self.inputs is None:
            return
        for name, schema in plan.inputs.items():
            if name not in self.inputs and "default" not in schema:
                message = f"the run is not given an input {name!r}"
                remedy = suggestion(name, self.inputs, otherwise="take it out: there are no inputs")
                yield InputsError(message, remedy=remedy, path=("inputs", name))
        if not plan.inputs:  # to `check_plan` that is a plan which takes whatever it is given
            for name in sorted(inputs_read(plan)):
                remedy = "take it out: there are no inputs"
                yield InputsError(f"the run is not given an input {name!r}", remedy=remedy)

    def _step(self, step: Step, place: int) -> Iterator[PlanError]:
        path = ("steps", place)
        if step.kind not in self.kinds:
            message = f"step {step.id!r} is a {step.kind} step, which a planned step may not be"
            yield FieldError(message, remedy=f"use one of {', '.join(sorted(self.kinds))}", path=(*path, step.kind))
        for name in set_fields(step) - FIELDS - {step.kind}:
            message = f"a planned step may not set {name!r}"
            yield FieldError(message, remedy="take it out", path=(*path, name))
        if step.model is not None and step.model not in self.models:
            message = f"step {step.id!r} asks model {step.model!r}, which is not listed"
            yield FieldError(message, remedy=suggestion(step.model, self.models), path=(*path, "model"))
        yield from self._effects(step, path)

    def _effects(self, step: Step, path: tuple[str | int, ...]) -> Iterator[PlanError]:
        """Refuse laxer effects than the tool's; `check_against` takes a step's word for a tool that says nothing."""
        canonical = self.offered.resolve(step.tool) if step.tool is not None else None
        if step.effects is None or canonical not in self.offered.expanded(None):
            return
        declared = self.offered.effects(canonical)
        if declared is None and STRICTNESS[step.effects] < STRICTNESS[Effects.ONCE]:
            message = f"step {step.id!r} says its effects are '{step.effects}', and tool {canonical!r} does not say so"
            yield FieldError(message, remedy="take `effects` out", path=(*path, "effects"))


def read_object(answer: str) -> dict[str, Any]:
    """Return the JSON object that an answer is.

    Raises:
        PlanSyntaxError: It is none.
    """
    remedy = "answer with one JSON object and nothing else"
    try:
        value = answer_value(answer)
    except OutputError as error:
        raise PlanSyntaxError(error.message, remedy=remedy) from None
    if not isinstance(value, dict):
        raise PlanSyntaxError("the answer is no JSON object", remedy=remedy)
    return value


def set_fields(step: Step) -> set[str]:
    """Return the names of the fields that differ from their defaults."""
    blank = Step(id=step.id)
    return {one.name for one in fields(Step) if getattr(step, one.name) != getattr(blank, one.name)}


def inputs_read(plan: Plan) -> set[str]:
    """Return the names of the inputs that a plan refers to; none if its references cannot be read."""
    try:
        graph = compile_plan(plan)
    except PlanError:
        return set()
    found: set[str] = set()
    for entry in graph.steps:
        for part in (entry.args, entry.when, entry.for_each, entry.key, *entry.conditions.values()):
            found |= {str(ref.path[0]) for ref in (part.refs if part else ()) if ref.root == "inputs" and ref.path}
    given = graph.outputs.refs if graph.outputs else ()
    return found | {str(ref.path[0]) for ref in given if ref.root == "inputs" and ref.path}


def _inputs_of(plan: Plan, known: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the inputs of a plan: those it reads must be given, the others may be left out."""
    read = inputs_read(plan)
    given = {name: schema if name in read else {"default": None} for name, schema in known.items()}
    return {name: schema for name, schema in plan.inputs.items() if name not in known} | given


def _above(asked: ResourceLimits | None, given: ResourceLimits | None) -> Iterator[str]:
    if asked is None or given is None:
        return
    for name in sorted(asked.model_fields_set):
        most, wanted = getattr(given, name), getattr(asked, name)
        if most is not None and (wanted is None or wanted > most):
            yield name


def _lower(asked: ResourceLimits | None, given: ResourceLimits | None) -> ResourceLimits | None:
    """Return the given limits, lowered where the plan says so itself."""
    if asked is None or given is None:
        return asked if given is None else given
    return given.model_copy(update={name: getattr(asked, name) for name in asked.model_fields_set})

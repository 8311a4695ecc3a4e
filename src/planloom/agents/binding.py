"""From lines of English to steps that can be done: what a model says of each `task` step, put into the plan.

Rule 1: the plan is its author's: nothing changes but how a task step is done, and a bound step reads only what it
needs already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from planloom.agents.authority import Offered, read_object
from planloom.agents.planning_prompt import planning_schema
from planloom.errors import (
    ExpressionError,
    FieldError,
    InputsError,
    NotAllowedError,
    PlanError,
    UnknownStepError,
    plan_error,
    suggestion,
)
from planloom.plan.against import check_against
from planloom.plan.graph import compile_plan
from planloom.plan.load import load_plan
from planloom.plan.model import Plan, Step
from planloom.plan.refs import compile_template

FIELDS = ("tool", "model", "with", "prompt", "output")
"""Fields that say how a step is done."""


@lru_cache(maxsize=1)
def binding_schema() -> dict[str, Any]:
    """Return the JSON Schema of what a model answers."""
    step = planning_schema(frozenset({"tool", "model"}))["properties"]["steps"]["items"]
    fields = {name: step["properties"][name] for name in ("id", *FIELDS)}
    steps = {"type": "array", "items": step | {"properties": fields}}
    return {"type": "object", "properties": {"steps": steps}, "required": ["steps"], "additionalProperties": False}


def open_steps(plan: Plan) -> list[Step]:
    """Return the steps of a plan that only say in words what is to be done."""
    return [step for step in plan.steps if step.task is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A plan whose task steps are to be bound.

    Attributes:
        offered: Tools they may be bound to.
        known: These, and the tools that other steps use.
        models: Names they may use for models.
        inputs: Names of the inputs they may read.
    """

    plan: Plan
    offered: Offered
    known: Offered
    models: frozenset[str]
    inputs: frozenset[str]

    def read(self, answer: str) -> Plan:
        """Return the plan, bound as an answer says.

        Raises:
            PlanError: Everything that is wrong with it, in `.problems`.
        """
        said = self._said(read_object(answer))
        document = self.plan.to_dict()
        document["steps"] = [
            _bound(step, said[step["id"]]) if step["id"] in said else step for step in document["steps"]
        ]
        return load_plan(document, also=self._problems)

    def _said(self, answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return what is said of each task step; raises PlanError where that is not said as it was asked for."""
        wanted = [step.id for step in open_steps(self.plan)]
        entries = answer.get("steps")
        if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
            raise FieldError("'steps' is no list of objects", remedy='answer {"steps": [{"id": …, …}, …]}')
        said: dict[str, dict[str, Any]] = {}
        problems: list[PlanError] = []
        for entry in entries:
            name = str(entry.get("id"))
            fields = {field: value for field, value in entry.items() if field != "id"}
            unwanted = sorted(fields.keys() - {*FIELDS})
            if name in said or name not in wanted:
                problems.append(UnknownStepError(f"step {name!r} is not asked for here", remedy=_only(wanted)))
            elif unwanted:
                message = f"of step {name!r} it is not asked for {unwanted[0]!r}"
                problems.append(FieldError(message, remedy=f"give {', '.join(FIELDS)} only", step=name))
            said[name] = fields
        for name in wanted:
            if name not in said:
                problems.append(UnknownStepError(f"nothing is said of step {name!r}", remedy=_only(wanted)))
        if problems:
            raise plan_error(problems)
        return said

    def _problems(self, bound: Plan) -> list[PlanError]:
        """Return what is wrong with the bound steps, beside what is wrong with any step."""
        graph = compile_plan(self.plan)
        now = {step.id: (place, step) for place, step in enumerate(bound.steps)}
        problems: list[PlanError] = []
        for old in open_steps(self.plan):
            place, step = now[old.id]
            above = frozenset(graph.steps[at].step.id for at in graph.ancestors(graph.index[old.id]))
            for problem in (*self._done_by(old, step), *self._reads(step, above)):
                problem.step = step.id
                problem.path = problem.path or ("steps", place)
                problems.append(problem)
        return problems + check_against(bound, self.known)

    def _done_by(self, old: Step, step: Step) -> Iterator[PlanError]:
        if step.kind not in ("tool", "model"):
            yield FieldError(f"step {step.id!r} does not say how it is done", remedy="give it a tool or a model")
        if step.model is not None and step.model not in self.models:
            message = f"step {step.id!r} asks model {step.model!r}, which is not listed"
            yield FieldError(message, remedy=suggestion(step.model, self.models))
        if step.tool is None:
            return
        canonical = self.offered.resolve(step.tool)
        allowed = self.offered.expanded(old.tools)
        if canonical is not None and canonical not in allowed:
            message = f"step {step.id!r} may not use tool {step.tool!r}"
            yield NotAllowedError(message, remedy=f"use one of {', '.join(sorted(allowed)) or 'none'}", tool=canonical)

    def _reads(self, step: Step, above: frozenset[str]) -> Iterator[PlanError]:
        try:
            refs = compile_template([step.args, step.prompt or "", step.system or ""]).refs
        except ExpressionError:
            return  # reported with the plan's own problems
        for name in sorted({str(ref.path[0]) for ref in refs if ref.root == "steps"} - above):
            message = f"step {step.id!r} reads step {name!r}, which it does not need"
            remedy = f"read only {', '.join(sorted(above))}" if above else "read no other step"
            yield UnknownStepError(message, remedy=remedy)
        for name in sorted({str(ref.path[0]) for ref in refs if ref.root == "inputs" and ref.path} - self.inputs):
            remedy = suggestion(name, self.inputs, otherwise="there are no inputs")
            yield InputsError(f"the run is not given an input {name!r}", remedy=remedy)


def _bound(step: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """Return a task step's document with how it is done in place of its task."""
    kept = {name: value for name, value in step.items() if name not in ("task", "tools")}
    kept.setdefault("description", step["task"])
    given = said.get("with") or {}
    if "model" in said and "with" in step and isinstance(given, dict):
        said = said | {"with": step["with"] | given}
    return kept | said


def _only(wanted: list[str]) -> str:
    return f"say how each of these is done, and nothing of others: {', '.join(wanted)}"

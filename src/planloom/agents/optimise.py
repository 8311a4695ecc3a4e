"""A plan that does the same with less: fewer written needs, no step done twice.

Rule 1: what a run returns never changes; where that cannot be shown, the plan stays as it is.
Rule 2: an edge that a reference implies is never removed, only the need written beside it.
Rule 3: only what declares `effects: none` is done once instead of twice. A model is asked as often as the plan says:
two answers to one question are two answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from planloom.plan.against import Catalogue
from planloom.plan.expression import end_of_reference
from planloom.plan.graph import GraphStep, PlanGraph, compile_plan
from planloom.plan.model import Need, Plan, Step
from planloom.plan.policy import Effects, JoinRule
from planloom.plan.rules import own_effects
from planloom.plan.terms import Ref

_TEMPLATES = ("args", "prompt", "system", "task", "idempotency_key")
"""Fields in which references stand between ``${{`` and ``}}``."""
_DONE_ALIKE = frozenset({"tool", "code"})
"""Kinds of step that come to the same when they are given the same, if they change nothing."""
_STEP_REF = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?<![\w.-])steps(?:\s*\.\s*(?P<dotted>\w[\w-]*)|\s*\[\s*(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\d+)\s*\])"""
)


def optimise(plan: Plan, catalogue: Catalogue | None = None, *, drop_unused: bool = False) -> Plan:
    """Return a plan that comes to the same outputs, the plan itself if there is nothing to gain.

    Args:
        catalogue: The tools, for what they declare of their effects; None: only what steps themselves say counts.
        drop_unused: Leave out steps that change nothing and that nothing uses. A run no longer fails where such a step
            would have failed.

    Raises:
        PlanError: The plan is not sound.
    """
    made = _inside(plan, catalogue, drop_unused=drop_unused)
    made = _merged(made, catalogue)
    if drop_unused:
        made = _without_unused(made, catalogue)
    return _reduced(made)


def _inside(plan: Plan, catalogue: Catalogue | None, *, drop_unused: bool) -> Plan:
    """Return the plan with its sub-plans optimised."""
    compile_plan(plan)  # refuses what is not sound, before anything is made of it
    made = []
    for step in plan.steps:
        inner = step.plan
        better = optimise(inner, catalogue, drop_unused=drop_unused) if isinstance(inner, Plan) else inner
        made.append(step if better is inner else replace(step, plan=better))
    return _with_steps(plan, made)


def _with_steps(plan: Plan, steps: list[Step]) -> Plan:
    same = len(steps) == len(plan.steps) and all(one is other for one, other in zip(steps, plan.steps, strict=True))
    return plan if same else replace(plan, steps=tuple(steps))


def changes_nothing(step: Step, catalogue: Catalogue | None) -> bool:
    """Return whether a step's effects are known to be `none`."""
    effects = own_effects(step)
    if effects is None and catalogue is not None and step.tool is not None:
        canonical = catalogue.resolve(step.tool)
        effects = catalogue.effects(canonical) if canonical in catalogue.expanded(None) else None
    return effects is Effects.NONE


# --- needs that follow from others ------------------------------------------------------------


def _reduced(plan: Plan) -> Plan:
    """Return the plan without the needs that other edges imply."""
    graph = compile_plan(plan)
    position = {place: at for at, place in enumerate(graph.order)}
    return _with_steps(plan, [_reduced_step(graph, entry, position) for entry in graph.steps])


def _reduced_step(graph: PlanGraph, entry: GraphStep, position: Mapping[int, int]) -> Step:
    step = entry.step
    plain = [graph.index[need] for need in step.needs if isinstance(need, str)]
    if not plain:
        return step
    implied = _referred(graph, entry) | {graph.index[need.step] for need in step.needs if isinstance(need, Need)}
    implied |= _behind(graph, entry, plain, position)
    kept: list[str | Need] = []
    for need in step.needs:
        if isinstance(need, Need) or (graph.index[need] not in implied and need not in kept):
            kept.append(need)
    return step if len(kept) == len(step.needs) else replace(step, needs=tuple(kept))


def _referred(graph: PlanGraph, entry: GraphStep) -> set[int]:
    """Return the steps that a step's own references make it wait for."""
    found: set[int] = set()
    for part in (entry.args, entry.when, entry.for_each, entry.key):
        found |= {graph.index[str(ref.path[0])] for ref in (part.refs if part else ()) if ref.root == "steps"}
    return found


def _behind(graph: PlanGraph, entry: GraphStep, wanted: list[int], position: Mapping[int, int]) -> set[int]:
    """Return the steps that must have gone well for another upstream step of this one to go well.

    Only along edges that hold for certain: no condition on them, and a step at their end that takes nothing less than
    success. Along any other a failure further up might not come through.
    """
    if entry.join is not JoinRule.ALL_SUCCESS:
        return set()
    first = min(position[place] for place in wanted)
    found: set[int] = set()
    stack = [place for place in entry.upstream if place not in entry.conditions]
    while stack:
        above = graph.steps[stack.pop()]
        if above.join is not JoinRule.ALL_SUCCESS:
            continue
        for place in above.upstream:
            if place not in above.conditions and place not in found and position[place] >= first:
                found.add(place)
                stack.append(place)
    return found


# --- steps that do the same -------------------------------------------------------------------


def _merged(plan: Plan, catalogue: Catalogue | None) -> Plan:
    """Return the plan with each step that another one does exactly as well left out, and read there instead."""
    graph = compile_plan(plan)
    conditional = {need.step for step in plan.steps for need in step.needs if isinstance(need, Need)}
    names: dict[str, str] = {}
    """Step that is left out → the one that does the same."""
    known: dict[str, str] = {}
    made: dict[int, Step] = {}
    for place in graph.order:
        entry = graph.steps[place]
        step = made[place] = _renamed(entry.step, names)
        is_end = plan.outputs is None and not entry.downstream  # then its output is the run's, under its name
        if (
            is_end
            or step.id in conditional
            or step.kind not in ("tool", "code")
            or not changes_nothing(step, catalogue)
        ):
            continue
        same = known.setdefault(_signature(step), step.id)
        if same != step.id:
            names[step.id] = same
            del made[place]
    if not names:
        return plan
    outputs = _in_values(plan.outputs, lambda text: _in_text(text, names))
    merged = replace(plan, steps=tuple(made[place] for place in sorted(made)), outputs=outputs)
    return merged if _reads_the_same(graph, compile_plan(merged), names) else plan


def _signature(step: Step) -> str:
    """Return a text that two steps share if they do the same with the same after the same."""
    bare = replace(step, id="same", description="", needs=())
    document = Plan(steps=(bare,)).to_dict()["steps"][0]
    needs = sorted({need for need in step.needs if isinstance(need, str)})
    return json.dumps([document, needs, [[need.step, need.when] for need in step.needs if isinstance(need, Need)]])


def _reads_the_same(old: PlanGraph, new: PlanGraph, names: Mapping[str, str]) -> bool:
    """Return whether every reference of the new plan is that of the old one, renamed: a pattern rewrote them."""

    def renamed(ref: Ref) -> Ref:
        if ref.root != "steps":
            return ref
        name = str(ref.path[0])
        return replace(ref, path=(names.get(name, name), *ref.path[1:]))

    for entry in new.steps:
        before = old.steps[old.index[entry.step.id]]
        if [renamed(ref) for ref in _refs(before)] != list(_refs(entry)):
            return False
    given = old.outputs.refs if old.outputs else ()
    return [renamed(ref) for ref in given] == list(new.outputs.refs if new.outputs else ())


def _refs(entry: GraphStep) -> Iterator[Ref]:
    for part in (entry.args, entry.when, entry.for_each, entry.key, *entry.conditions.values()):
        yield from part.refs if part else ()


# --- reading another step instead -------------------------------------------------------------


def _renamed(step: Step, names: Mapping[str, str]) -> Step:
    """Return the step with its needs and references leading to the steps that are kept."""
    if not names:
        return step
    text: Callable[[str], str] = lambda value: _in_text(value, names)  # noqa: E731 - a name for what is done often
    changed: dict[str, Any] = {field: _in_values(getattr(step, field), text) for field in _TEMPLATES}
    changed["needs"] = tuple(_renamed_need(need, names) for need in step.needs)
    if isinstance(step.when, str):
        changed["when"] = _in_expression(step.when, names)
    if isinstance(step.for_each, str) and "${{" not in step.for_each:
        changed["for_each"] = _in_expression(step.for_each, names)
    else:
        changed["for_each"] = _in_values(step.for_each, text)
    if step.approve is not None:
        changed["approve"] = step.approve.model_copy(update={"message": text(step.approve.message)})
    if step.wait is not None:
        until = {"seconds": _in_values(step.wait.seconds, text), "until": _in_values(step.wait.until, text)}
        changed["wait"] = step.wait.model_copy(update=until)
    different = {field: value for field, value in changed.items() if value != getattr(step, field)}
    return replace(step, **different) if different else step


def _renamed_need(need: str | Need, names: Mapping[str, str]) -> str | Need:
    if isinstance(need, str):
        return names.get(need, need)
    return replace(need, step=names.get(need.step, need.step), when=_in_expression(need.when, names))


def _in_values(value: Any, text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {key: _in_values(entry, text) for key, entry in value.items()}
    return [_in_values(entry, text) for entry in value] if isinstance(value, list) else value


def _in_text(text: str, names: Mapping[str, str]) -> str:
    made, place = [], 0
    while (start := text.find("${{", place)) != -1:
        end = end_of_reference(text, start + 3)
        if (start > 0 and text[start - 1] == "$") or end == -1:
            made.append(text[place : start + 3])
            place = start + 3
            continue
        made += [text[place : start + 3], _in_expression(text[start + 3 : end], names)]
        place = end
    return "".join([*made, text[place:]])


def _in_expression(text: str, names: Mapping[str, str]) -> str:
    def written(match: re.Match[str]) -> str:
        name = match["dotted"] or match["quoted"]
        if match["text"] is not None or name is None:
            return match[0]
        plain = name[1:-1] if name[0] in "\"'" else name
        return f"steps[{json.dumps(names[plain])}]" if plain in names else match[0]

    return _STEP_REF.sub(written, text)


# --- steps that nothing uses ------------------------------------------------------------------


def _without_unused(plan: Plan, catalogue: Catalogue | None) -> Plan:
    """Return the plan without steps that change nothing and that neither a step nor the outputs wait for."""
    if plan.outputs is None:
        return plan  # then the outputs of the last steps are the run's
    graph = compile_plan(plan)
    used = {
        graph.index[str(ref.path[0])] for ref in (graph.outputs.refs if graph.outputs else ()) if ref.root == "steps"
    }
    for place in reversed(graph.order):
        entry = graph.steps[place]
        if not changes_nothing(entry.step, catalogue) or place in used:
            used |= {place, *entry.upstream}
    return _with_steps(plan, [entry.step for entry in graph.steps if entry.place in used])

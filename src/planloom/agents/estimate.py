"""What a run of a plan is expected to cost and to take, from what tools say of themselves and from past runs.

Rule 1: unknown is None: one step that nobody knows makes the sum unknown.
Rule 2: past runs come before what a tool says, and that before a price list.
Rule 3: an estimate takes every step to run once and to succeed at once; no limit is held against it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import fmean, median

from planloom.core.asking import size_bytes, text_of
from planloom.core.prices import ModelFacts
from planloom.core.result import RunResult, StepResult, StepStatus, Usage
from planloom.plan.graph import GraphStep, compile_plan
from planloom.plan.model import Plan, Step
from planloom.tools.definition import ToolDefinition

ANSWER_TOKENS = 300
"""Tokens an answer of a model is taken to have, where no past run says better and the step allows as many."""
BYTES_PER_TOKEN = 4

Doer = tuple[str, str]
"""Kind of step and name of its tool or model."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What one step, or a whole run, is expected to cost and to take; None where nobody knows."""

    cost_usd: float | None = None
    latency_ms: float | None = None


UNKNOWN = Expected()


def said_of(tools: Iterable[ToolDefinition]) -> dict[Doer, Expected]:
    """Return what tools say of themselves. One that names no price costs nothing, as in a run."""
    return {
        ("tool", one.name): Expected(one.metadata.cost_per_call or 0.0, one.metadata.expected_latency_ms)
        for one in tools
    }


def seen_in(past: Iterable[RunResult | StepResult]) -> dict[Doer, Expected]:
    """Return by tool and model the mean cost and the median time of the steps that went well in past runs."""
    costs: defaultdict[Doer, list[float]] = defaultdict(list)
    times: defaultdict[Doer, list[float]] = defaultdict(list)
    waiting: list[StepResult] = []
    for result in past:
        waiting += result.steps if isinstance(result, RunResult) else (result,)
    while waiting:
        step = waiting.pop()
        if step.parts:
            waiting += step.parts
        elif step.status is StepStatus.COMPLETED and step.kind in ("tool", "model") and step.attempts:
            doer = step.kind, step.doer
            times[doer].append(step.busy_s * 1000)
            if step.cost_usd is not None or step.usage is None:
                costs[doer].append(step.cost_usd or 0.0)
    return {doer: Expected(fmean(costs[doer]) if costs[doer] else None, median(found)) for doer, found in times.items()}


def rather(first: Mapping[Doer, Expected], then: Mapping[Doer, Expected]) -> dict[Doer, Expected]:
    """Return what the first says, and where it does not know, what the other says."""
    merged = dict(then)
    for doer, one in first.items():
        other = then.get(doer, UNKNOWN)
        merged[doer] = Expected(
            other.cost_usd if one.cost_usd is None else one.cost_usd,
            other.latency_ms if one.latency_ms is None else one.latency_ms,
        )
    return merged


def estimate(plan: Plan, expected: Mapping[Doer, Expected], models: Mapping[str, ModelFacts] | None = None) -> Expected:
    """Return what a run of the plan is expected to cost and to take.

    A `for_each` over a list that is not known yet is taken to run its items at the same time, at a cost that is
    unknown unless the step costs nothing.

    Args:
        expected: See `said_of` and `seen_in`.
        models: By the names that the plan uses, for a price where no past run tells a cost.

    Raises:
        PlanError: The plan is not sound.
    """
    graph = compile_plan(plan)
    steps = [_times_items(entry, _one(entry.step, expected, models or {})) for entry in graph.steps]
    costs = [one.cost_usd for one in steps if one.cost_usd is not None]
    times = [one.latency_ms for one in steps if one.latency_ms is not None]
    return Expected(
        sum(costs) if len(costs) == len(steps) else None,
        max(graph.remaining(times), default=0.0) if len(times) == len(steps) else None,
    )


def _one(step: Step, expected: Mapping[Doer, Expected], models: Mapping[str, ModelFacts]) -> Expected:
    if isinstance(step.plan, Plan):
        return estimate(step.plan, expected, models)
    if step.wait is not None:
        seconds = step.wait.seconds
        return Expected(0.0, seconds * 1000 if isinstance(seconds, int | float) else None)
    if step.approve is not None:
        return Expected(0.0, None)
    known = expected.get((step.kind, step.doer), UNKNOWN)
    if known.cost_usd is None and step.model is not None:
        return Expected(_listed_usd(step, models.get(step.model)), known.latency_ms)
    return known


def _listed_usd(step: Step, facts: ModelFacts | None) -> float | None:
    """Return what asking once costs at list price: the prompt as it is written, and an answer of usual length."""
    if facts is None or facts.price is None:
        return None
    text = "".join([step.prompt or "", step.system or "", text_of(step.args), text_of(step.output or "")])
    answer = min(ANSWER_TOKENS, step.max_tokens or facts.max_tokens)
    return facts.price.cost_usd(Usage(ceil(size_bytes(text) / BYTES_PER_TOKEN), answer, requests=1))


def _times_items(entry: GraphStep, one: Expected) -> Expected:
    step = entry.step
    if step.for_each is None:
        return one
    width = len(step.for_each) if isinstance(step.for_each, list) else None
    if width is None:
        return Expected(0.0 if one.cost_usd == 0.0 else None, one.latency_ms if step.max_parallel is None else None)
    rounds = ceil(width / step.max_parallel) if step.max_parallel else min(width, 1)
    return Expected(
        None if one.cost_usd is None else width * one.cost_usd,
        None if one.latency_ms is None else rounds * one.latency_ms,
    )

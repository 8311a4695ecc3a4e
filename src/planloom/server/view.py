"""What the page draws of a run: its picture, its timeline, its totals, its budget. Worked out here, from the record.

Rule 1: pictures are laid out by `observe`, by the same code as `planloom graph`; the page places nothing itself.
Rule 2: what is secret stays out of texts and pictures; the page asks for outputs step by step.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from planloom.observe.looks import LOOKS, every_step, note_of, run_word, status_of
from planloom.observe.picture import grouped, picture_of
from planloom.observe.svg import COMPACT_FROM, headline, picture_svg
from planloom.observe.timeline import attempts_of, rows_of, speculated_of
from planloom.server.showing import questions_of, run_summary, shown_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planloom.core.result import RunResult, StepResult
    from planloom.runtime.reading import RunOnRecord

MOST_ROWS = 2_000
"""Steps told of in one view; what comes after is counted."""


class GraphValue(BaseModel):
    """The plan as a picture, with how each step stands."""

    svg: str | None = Field(description="The picture; null when it is the one that `known` names.")
    hash: str = Field(description="Of the picture: give it as `known` next time.")
    groups: dict[str, list[str]] = Field(description="Steps behind a box that stands for several, by the box's key.")


class BarValue(BaseModel):
    """One attempt on the timeline."""

    begin: float = Field(description="Seconds from the run's start.")
    end: float
    status: str = Field(examples=["completed"])
    words: str = Field(examples=["fetch, attempt 2: completed, 1.24 s"])
    attempt: int = Field(description="0 where no attempt is on record, as for an approval.")
    lane: str = Field(description='"ahead" or "draft" for what ran on values nobody had confirmed; else "".')
    outcome: str = Field(default="", description='What came of such: "confirmed", "rolled_back", "spent"; else "".')


class RowValue(BaseModel):
    """One step: those that started first, in the order of their starts."""

    step: str
    kind: str
    doer: str
    status: str = Field(description="A step's status, or `blocked`.")
    word: str = Field(description="The status in words.")
    symbol: str
    parent: str = Field(default="", description="The map or sub-plan that it is a part of, or nothing.")
    note: str = Field(description="Its error, or why it was skipped or waits.")
    attempts: int
    cost: float | None = None
    tokens: int
    seconds: float | None = None
    bars: list[BarValue]


class BudgetValue(BaseModel):
    """A limit of the run, and how much of it is used."""

    name: str = Field(examples=["max_total_cost_usd"])
    label: str = Field(examples=["cost"])
    unit: str = Field(examples=["USD"])
    limit: float
    used: float
    reserved: float = Field(description="Set aside for what is under way.")


class RunView(BaseModel):
    """What the page draws of a run."""

    model_config = ConfigDict(extra="allow")

    run: dict[str, Any]
    totals: dict[str, Any]
    budget: list[BudgetValue]
    questions: list[dict[str, Any]]
    speculation: dict[str, Any] | None = None
    graph: GraphValue
    rows: list[RowValue]
    rows_left_out: int
    span_s: float


def view_of(run: RunOnRecord, *, known: str = "") -> dict[str, Any]:
    """Return what the page draws of a run.

    Args:
        known: Hash of the picture that the page has; it is not sent again.
    """
    result = shown_result(run)
    rows, left_out, span_s = _rows(run, result)
    started = run.state.started
    assert started is not None
    about = {
        "ended": run.machine.ended,
        "word": "paused" if run.state.paused and not run.machine.ended else run_word(result.status.value),
        "driven": run.driven,
        "error": result.error,
        "failed_step": result.failed_step,
        "inputs": started.inputs,
        "ended_at": result.ended_at,
        "exceeded_limits": list(result.exceeded_limits),
        "description": run.plan.description,
    }
    return {
        "run": run_summary(run) | about,
        "totals": _totals(result),
        "budget": _budget(run, result),
        "questions": questions_of(run),
        "speculation": result.speculation,
        "graph": _graph(run, result, known),
        "rows": rows,
        "rows_left_out": left_out,
        "span_s": span_s,
    }


def _graph(run: RunOnRecord, result: RunResult, known: str) -> dict[str, Any]:
    picture = picture_of(run.plan, result)
    svg = picture_svg(picture, subtitle=headline(run.plan, result))
    digest = sha256(svg.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    groups: dict[str, list[str]] = {}
    if len(picture.boxes) > COMPACT_FROM:
        groups = {box.key: list(box.members) for box in grouped(picture).boxes if box.members}
    return {"svg": None if digest == known else svg, "hash": digest, "groups": groups}


def _rows(run: RunOnRecord, result: RunResult) -> tuple[list[dict[str, Any]], int, float]:
    """Return the rows, how many were left out, and the seconds the axis spans."""
    steps = {step.id: step for step in every_step(result.steps)}
    parents = {part.id: step.id for step in steps.values() for part in step.parts}
    spans = {"ahead": "running", "draft": "ready"}
    attempts = [*attempts_of(run.records), *speculated_of(run.records)]
    drawn, span_s, _ = rows_of(result, attempts, most=MOST_ROWS)
    rows = []
    for row in drawn:
        # What ran ahead and was confirmed is that attempt, and stands where it ran.
        settled = {bar.attempt for bar in row.bars if bar.lane == "ahead" and bar.outcome == "confirmed"}
        bars = [
            {
                "begin": round(bar.begin, 6),
                "end": round(bar.end, 6),
                "status": spans[bar.lane] if bar.lane and bar.status == "completed" else bar.status,
                "words": bar.tip,
                "attempt": bar.attempt,
                "lane": bar.lane,
                "outcome": bar.outcome,
            }
            for bar in row.bars
            if bar.lane or bar.attempt not in settled
        ]
        rows.append(_row(steps.pop(row.label), bars, parents))
    room = MOST_ROWS - len(rows)
    waiting = list(steps.values())
    rows += [_row(step, [], parents) for step in waiting[:room]]
    return rows, len(waiting) - len(waiting[:room]), span_s


def _row(step: StepResult, bars: list[dict[str, Any]], parents: Mapping[str, str]) -> dict[str, Any]:
    status = status_of(step)
    latency_ms = step.latency_ms
    return {
        "step": step.id,
        "kind": step.kind,
        "doer": step.doer,
        "status": status,
        "word": LOOKS[status].word,
        "symbol": LOOKS[status].symbol,
        "parent": parents.get(step.id, ""),
        "note": note_of(step),
        "attempts": step.attempts,
        "cost": step.cost_usd,
        "tokens": step.usage.total_tokens if step.usage is not None else 0,
        "seconds": None if latency_ms is None else latency_ms / 1000,
        "bars": bars,
    }


def _totals(result: RunResult) -> dict[str, Any]:
    counts = dict.fromkeys((status for status in LOOKS), 0)
    for step in result.steps:
        counts[status_of(step)] += 1
    retries = sum(max(0, step.attempts - 1) for step in every_step(result.steps))
    return {
        "steps": len(result.steps),
        "by_status": {status: count for status, count in counts.items() if count},
        "seconds": result.active_s,
        "cost": result.cost_usd,
        "cost_unknown": list(result.cost_unknown),
        "tokens": result.usage.total_tokens,
        "tool_calls": result.tool_calls,
        "retries": retries,
        "speedup": result.speedup,
        "critical_path_s": result.critical_path_ms / 1000,
    }


def _budget(run: RunOnRecord, result: RunResult) -> list[dict[str, Any]]:
    """Return the run's limits that fill up, in the order people ask for them."""
    started = run.state.started
    if started is None or started.limits is None:
        return []
    limits, budget = started.limits, run.state.budget
    calls, cost_usd, tokens = (0, 0.0, 0) if run.machine.ended else budget.reserved
    running = 0 if run.machine.ended else budget.running
    told = (
        ("max_total_cost_usd", "cost", "USD", limits.max_total_cost_usd, budget.cost_usd, cost_usd),
        ("max_total_tokens", "tokens", "tokens", limits.max_total_tokens, budget.usage.total_tokens, tokens),
        ("max_tool_calls", "tool calls", "calls", limits.max_tool_calls, budget.calls, calls),
        ("timeout_seconds", "time", "s", limits.timeout_seconds, result.active_s, 0.0),
        ("max_concurrent", "at once", "steps", limits.max_concurrent, running, 0),
    )
    return [
        {"name": name, "label": label, "unit": unit, "limit": limit, "used": used, "reserved": reserved}
        for name, label, unit, limit, used, reserved in told
        if limit is not None
    ]

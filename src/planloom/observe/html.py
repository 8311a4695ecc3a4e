"""What notebooks show of a plan, of a run and of a step: a picture, tables and values, as HTML and as SVG.

Rule 1: showing never fails and never takes long: a plan with mistakes is a table and a sentence, one too large to be
drawn is a table and a command, and no value, table or picture is shown beyond a bound.
Rule 2: what is shown may come from anybody; see `html_parts`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planloom.core.result import RunResult, StepResult
from planloom.errors import PlanError
from planloom.observe.html_parts import (
    LONG,
    NOTE,
    Mark,
    badge,
    cut,
    folded,
    frame,
    preview,
    said,
    scrolling,
    table,
    text_block,
    value_text,
)
from planloom.observe.looks import LOOKS, counted, duration_text, money_text, note_of, run_word, status_of, step_facts
from planloom.observe.picture import Box, Picture, Tally, grouped, picture_of
from planloom.observe.svg import headline, picture_svg
from planloom.observe.text import summary_lines
from planloom.observe.timeline import timeline_svg
from planloom.plan.model import Need, Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planloom.plan.model import Step

MAX_BOXES = 1_000
"""Boxes of a graph that is drawn, after those alike were made one; so many small ones take some 500 KB."""
MAX_ROWS = 200
"""Steps in a table."""
MAX_BARS = 100
"""Steps in a timeline."""
OPEN_ROWS = 12
"""A table of no more rows is open from the beginning."""
_STEP_COLUMNS = ("step", "status", "time", "cost", "attempts", "doer", "output", "note")
_PLAN_COLUMNS = ("step", "kind", "doer", "after", "only if", "description")
_NUMBERS = ("time", "cost", "attempts")
_TROUBLE = ("failed", "timed_out", "blocked", "running")
"""What a table that cannot show all steps shows first."""


def html_of(value: object) -> str | None:
    """Return a plan, a run's result or a step's as HTML; None for anything else."""
    if isinstance(value, Plan):
        return _plan_html(value)
    if isinstance(value, RunResult):
        return _run_html(value)
    return _step_html(value) if isinstance(value, StepResult) else None


def svg_of(value: object) -> str | None:
    """Return a plan's graph, a run's with how each step stands, or a step's box; None for what cannot be drawn."""
    if isinstance(value, Plan):
        return _graph(value, None)
    if isinstance(value, RunResult):
        return _graph(value.full_plan, value) if value.full_plan is not None else _timeline(value)
    if isinstance(value, StepResult):
        return picture_svg(Picture(value.id, (_bounded(_step_box(value)),), ()))
    return None


# --- pictures ---------------------------------------------------------------------------------


def _graph(plan: Plan, result: RunResult | None) -> str | None:
    """Return the graph as SVG; None where it has mistakes, no steps, or more of them than are drawn."""
    try:
        picture = picture_of(plan, result)
        if _boxes(picture) > MAX_BOXES:
            picture = grouped(picture_of(plan, result, nested=False))
    except PlanError:
        return None
    if not 0 < _boxes(picture) <= MAX_BOXES:
        return None
    return picture_svg(_short(picture), subtitle=cut(headline(plan, result), NOTE))


def _boxes(picture: Picture) -> int:
    return sum(1 if box.inside is None else 1 + _boxes(box.inside) for box in picture.boxes)


def _short(picture: Picture) -> Picture:
    """Return the picture with what is said in full only where it is pointed at, cut short."""
    return replace(picture, name=cut(picture.name, NOTE), boxes=tuple(_bounded(box) for box in picture.boxes))


def _bounded(box: Box) -> Box:
    inside = None if box.inside is None else _short(box.inside)
    return replace(
        box,
        inside=inside,
        doer=cut(box.doer, NOTE),
        when=None if box.when is None else cut(box.when, NOTE),
        description=cut(box.description, NOTE),
        note=cut(box.note, NOTE),
    )


def _step_box(step: StepResult) -> Box:
    statuses = Counter(status_of(part) for part in step.parts)
    count = step.width if step.width is not None else len(step.parts) or None
    return Box(
        id=step.id,
        key=step.id,
        kind=step.kind,
        doer=step.doer,
        status=status_of(step),
        facts=step_facts(step),
        tally=Tally(count, statuses) if count is not None else None,
        note=note_of(step),
    )


def _timeline(result: RunResult) -> str | None:
    """Return when each step of the plan itself ran, of the first that started; None where none has."""
    started = sorted(
        (step for step in result.steps if step.started_at is not None), key=lambda step: step.started_at or 0
    )
    if not started:
        return None
    shown = tuple(replace(step, parts=()) for step in started[:MAX_BARS])
    return timeline_svg(replace(result, plan=cut(result.plan, NOTE), steps=shown))


def _graph_part(plan: Plan, result: RunResult | None, command: str) -> str:
    drawn = _graph(plan, result)
    if drawn is not None:
        return scrolling(drawn)
    try:
        steps = len(picture_of(plan, nested=False).boxes)
    except PlanError as error:
        return f'<p class="pl-bad">not drawn: {said(error.message)}</p>'
    if not steps:
        return ""
    return f'<p class="pl-m">{counted(steps, "step")}, too many to be drawn here: <code>{said(command)}</code></p>'


# --- a plan -----------------------------------------------------------------------------------


def _plan_html(plan: Plan) -> str:
    head = (
        f'<span class="pl-n">{said(plan.name)}</span><span class="pl-m">plan, {counted(len(plan.steps), "step")}</span>'
    )
    parts = [f"<p>{said(plan.description)}</p>"] if plan.description else []
    if plan.inputs:
        parts.append(f'<p class="pl-m">inputs: {said(", ".join(_input(*one) for one in plan.inputs.items()))}</p>')
    if plan.limits is not None:
        limits = plan.limits.model_dump(mode="json", exclude_unset=True)
        parts.append(
            f'<p class="pl-m">limits: {said(", ".join(f"{name} {preview(at)}" for name, at in limits.items()))}</p>'
        )
    parts.append(_graph_part(plan, None, "planloom graph PLAN -o plan.svg"))
    rows = [_plan_row(step) for step in plan.steps[:MAX_ROWS]]
    if rows:
        parts.append(_table_part("Steps", _PLAN_COLUMNS, rows, len(plan.steps), is_open=False))
    return frame(head, *parts)


def _input(name: str, schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    return f"{name} ({kind})" if isinstance(kind, str) else name


def _plan_row(step: Step) -> dict[str, object]:
    doer = step.plan.name if isinstance(step.plan, Plan) else step.plan or step.doer
    return {
        "step": step.id,
        "kind": step.kind + ("" if step.for_each is None else ", for each item"),
        "doer": "" if doer == step.kind else doer,
        "after": ", ".join(need.step if isinstance(need, Need) else need for need in step.needs),
        "only if": None if step.when is None else str(step.when),
        "description": step.description,
    }


def _table_part(
    title: str, columns: Sequence[str], rows: Sequence[dict[str, object]], whole: int, *, is_open: bool
) -> str:
    """Return a table that can be folded away, with the columns that hold anything and a word on what is left out."""
    used = [name for name in columns if any(row.get(name) not in (None, "") for row in rows)]
    rest = f'<p class="pl-m">and {counted(whole - len(rows), "step")} more</p>' if whole > len(rows) else ""
    return folded(title, table(used, rows, right=_NUMBERS) + rest, is_open=is_open)


# --- a run ------------------------------------------------------------------------------------


def _run_html(result: RunResult) -> str:
    first, *more = summary_lines(result)
    head = badge(_RUN_COLOURS.get(result.status.value, ""), run_word(result.status.value))
    head += f'<span class="pl-n">{said(result.plan)}</span>'
    head += f'<span class="pl-m">run {said(result.run_id)}: {said(first.partition(": ")[2])}</span>'
    parts = [f"<p{_tone(line)}>{said(line)}</p>" for line in more]
    parts += [f"<p>to go on: <code>{said(one['command'])}</code></p>" for one in result.blockers()[:MAX_ROWS]]
    if result.full_plan is not None:
        command = f"planloom graph --run {result.run_id} -o run.svg"
        parts.append(_graph_part(result.full_plan, result, command))
    shown = _most_telling(result.steps)
    if shown:
        rows = [_step_row(step) for step in shown]
        parts.append(_table_part("Steps", _STEP_COLUMNS, rows, len(result.steps), is_open=len(rows) <= OPEN_ROWS))
    bars = _timeline(result)
    if bars is not None:
        kept = f", of the first {MAX_BARS} steps" if len(result.steps) > MAX_BARS else ""
        parts.append(folded(f"Timeline{kept}", scrolling(bars)))
    return frame(head, *parts, _output_part(result.output))


_RUN_COLOURS = {
    "running": "running",
    "waiting": "blocked",
    "success": "completed",
    "partial": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "limit_exceeded": "timed_out",
}
"""Under which status of a step a run's is shown."""


def _tone(line: str) -> str:
    return ' class="pl-bad"' if line.startswith(("error:", "limit reached:")) else ""


def _most_telling(steps: Sequence[StepResult]) -> Sequence[StepResult]:
    """Return all the steps, or those in trouble and as many of the others as there is room for, in their order."""
    if len(steps) <= MAX_ROWS:
        return steps
    places = sorted(range(len(steps)), key=lambda place: (status_of(steps[place]) not in _TROUBLE, place))
    return [steps[place] for place in sorted(places[:MAX_ROWS])]


def _step_row(step: StepResult) -> dict[str, object]:
    latency = step.latency_ms
    return {
        "step": step.id,
        "status": Mark(status_of(step)),
        "time": None if latency is None else duration_text(latency / 1000),
        "cost": money_text(step.cost_usd) or None,
        "attempts": step.attempts or None,
        "doer": step.doer,
        "output": preview(step.output),
        "note": note_of(step) or _items(step),
    }


def _items(step: StepResult) -> str:
    if step.width is None:
        return ""
    return counted(step.width, "item") + (f", {len(step.errors):,} failed" if step.errors else "")


def _output_part(output: Any) -> str:
    if output is None:
        return ""
    return folded("Output", text_block(value_text(output, LONG, indent=2)), is_open=True)


# --- a step -----------------------------------------------------------------------------------


def _step_html(step: StepResult) -> str:
    status = status_of(step)
    head = badge(status, LOOKS[status].word) + f'<span class="pl-n">{said(step.id)}</span>'
    doer = step.kind if step.doer == step.kind else f"{step.kind} {step.doer}"
    tokens = [counted(step.usage.total_tokens, "token")] if step.usage is not None and step.usage.total_tokens else []
    head += f'<span class="pl-m">{said(", ".join((doer, *step_facts(step), *tokens)))}</span>'
    note = note_of(step) or _items(step)
    tone = ' class="pl-bad"' if step.error is not None else ""
    parts = [f"<p{tone}>{said(note, LONG)}</p>"] if note else []
    shown = _most_telling(step.parts)
    if shown:
        title = "Items" if step.width is not None else "Steps"
        rows = [_step_row(part) for part in shown]
        parts.append(_table_part(title, _STEP_COLUMNS, rows, len(step.parts), is_open=len(rows) <= OPEN_ROWS))
    if step.metadata:
        parts.append(folded("How it was done", text_block(value_text(step.metadata, LONG, indent=2))))
    return frame(head, *parts, _output_part(step.output))

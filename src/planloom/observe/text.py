"""A plan and a run as plain text: a picture by levels, a table of steps, a few lines that sum a run up.

Rule 1: everything that came from outside is made printable, so that no plan can steer a terminal.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from planloom.core.result import RunStatus, StepStatus
from planloom.observe.layout import levels_of
from planloom.observe.looks import (
    BLOCKED,
    LOOKS,
    counted,
    duration_text,
    every_step,
    money_text,
    note_of,
    printable,
    run_word,
    shortened,
    status_of,
    step_facts,
)
from planloom.observe.picture import picture_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planloom.core.result import RunResult, StepResult
    from planloom.observe.picture import Box, Picture
    from planloom.plan.model import Plan

NOTE_COLUMNS = 160
GIVEN_COLUMNS = 4_000
"""Characters of what a call would be given that a person is shown at once."""
TABLE_COLUMNS = ("step", "status", "time", "cost", "attempts", "doer", "note")
NUMBER_COLUMNS = frozenset({"time", "cost", "attempts"})


def graph_text(plan: Plan, result: RunResult | None = None, *, ascii_only: bool = False) -> str:
    """Return the plan by levels, then its edges; with each step's status where there is a result.

    Args:
        plan: The plan.
        result: A run of it, under way or ended.
        ascii_only: Use no sign beyond ASCII.

    Raises:
        PlanError: The plan has a circle, or steps that do not exist.
    """
    return picture_text(picture_of(plan, result), ascii_only=ascii_only)


def picture_text(picture: Picture, *, ascii_only: bool = False) -> str:
    """Return any picture, a plan's or an agent graph's, as text; see `graph_text`."""
    lines = [f"{printable(picture.name)} ({counted(len(picture.boxes), 'step')})"]
    lines += _level_lines(picture, "", ascii_only=ascii_only)
    statuses = picture.statuses()
    if statuses:
        signs = [
            f"{_sign(status, ascii_only=ascii_only)} {LOOKS[status].word}" for status in LOOKS if status in statuses
        ]
        lines += ["", "  ".join(signs)]
    text = "\n".join(lines) + "\n"
    return text.encode("ascii", "backslashreplace").decode("ascii") if ascii_only else text


def _level_lines(picture: Picture, indent: str, *, ascii_only: bool) -> list[str]:
    lines: list[str] = []
    levels = levels_of(len(picture.boxes), picture.edges)
    rows: list[list[Box]] = [[] for _ in range(max(levels, default=-1) + 1)]
    for box, level in zip(picture.boxes, levels, strict=True):
        rows[level].append(box)
    for number, row in enumerate(rows):
        lines += ["", f"{indent}level {number}"]
        for box in row:
            lines.append(f"{indent}  {_box_line(box, ascii_only=ascii_only)}")
            if box.inside is not None:
                lines += [line for line in _level_lines(box.inside, indent + "      ", ascii_only=ascii_only) if line]
    arrow = "->" if ascii_only else "→"
    if picture.arrows:
        lines += ["", f"{indent}edges"]
    for edge in picture.arrows:
        when = f"  if {printable(edge.when)}" if edge.when is not None else ""
        source, target = picture.boxes[edge.source], picture.boxes[edge.target]
        lines.append(f"{indent}  {printable(source.id)} {arrow} {printable(target.id)}{when}")
    return lines


def _sign(status: str, *, ascii_only: bool) -> str:
    return LOOKS[status].ascii if ascii_only else LOOKS[status].symbol


def _box_line(box: Box, *, ascii_only: bool) -> str:
    parts = [printable(box.id), f"({printable(box.kind if box.doer == box.kind else f'{box.kind} {box.doer}')})"]
    if box.status is not None:
        parts.insert(0, _sign(box.status, ascii_only=ascii_only))
        parts.append(LOOKS[box.status].word)
    if box.tally is not None:
        width = "?" if box.tally.width is None else str(box.tally.width)
        counts = f", {box.tally.done} done, {box.tally.failed} failed" if box.tally.by_status else ""
        parts.append(f"[{width} items{counts}]")
    parts += [", ".join(box.facts)] if box.facts else []
    parts += [f"if {printable(box.when)}"] if box.when is not None else []
    parts += [f"- {shortened(printable(box.note), NOTE_COLUMNS)}"] if box.note else []
    return " ".join(parts)


def steps_table(result: RunResult, *, parts: bool = False, ascii_only: bool = False) -> list[dict[str, Any]]:
    """Return a row for each step, a text or number for each of TABLE_COLUMNS, None where there is nothing to say.

    Args:
        result: The run.
        parts: With a row for each item and each step of a sub-plan too.
        ascii_only: Use no sign beyond ASCII for the status.
    """
    steps = every_step(result.steps) if parts else result.steps
    return [_row(step, ascii_only=ascii_only) for step in steps]


def _row(step: StepResult, *, ascii_only: bool) -> dict[str, Any]:
    latency, status = step.latency_ms, status_of(step)
    return {
        "step": step.id,
        "status": f"{_sign(status, ascii_only=ascii_only)} {LOOKS[status].word}",
        "time": duration_text(latency / 1000) if latency is not None else None,
        "cost": money_text(step.cost_usd) or None,
        "attempts": step.attempts or None,
        "doer": step.doer,
        "note": note_of(step) or _items(step) or None,
    }


def _items(step: StepResult) -> str:
    if step.width is None:
        return ""
    return counted(step.width, "item") + (f", {len(step.errors)} failed" if step.errors else "")


def summary_lines(result: RunResult) -> list[str]:
    """Return a few lines that say how a run stands or ended, what it took, and what stood in its way."""
    facts = [
        f"{result.steps_completed} of {counted(len(result.steps), 'step')} completed",
        duration_text(result.active_s) if result.active_s else "",
        f"cost {money_text(result.cost_usd)}" if result.cost_usd else "",
        counted(result.usage.total_tokens, "token") if result.usage.total_tokens else "",
    ]
    lines = [f"{run_word(result.status.value)}: {', '.join(fact for fact in facts if fact)}"]
    if result.error:
        where = f"step {printable(result.failed_step)}: " if result.failed_step else ""
        lines.append(f"error: {where}{printable(result.error)}")
    if result.exceeded_limits:
        lines.append(f"limit reached: {', '.join(result.exceeded_limits)}")
    if result.limits_not_enforced:
        lines.append(f"not enforced here: {', '.join(result.limits_not_enforced)}")
    lines += _troubles(result)
    return lines


def _troubles(result: RunResult) -> list[str]:
    """Return a line for each step that failed, unless the run's own error says it, and for each that waits."""
    waits = result.blocked if result.status in (RunStatus.WAITING, RunStatus.RUNNING) else ()
    failed = [
        step
        for step in every_step(result.steps)
        if step.status in (StepStatus.FAILED, StepStatus.TIMED_OUT)
        and not (step.id == result.failed_step and result.error)
    ]
    lines = [_trouble(step) for step in (*failed, *waits)]
    return lines[:20] + ([f"… and {len(lines) - 20} more"] if len(lines) > 20 else [])


def approval_lines(steps: Iterable[StepResult]) -> list[str]:
    """Return for each of these steps whose attempt waits for a person's word all that the word would be about."""
    lines = []
    for step in steps:
        asked = step.approval
        if asked is None or not asked["attempt"]:
            continue
        given = "not shown, for it is secret"
        if asked["arguments"] is not None:
            given = _whole(json.dumps(asked["arguments"], ensure_ascii=False))
        labels = f" (labels: {', '.join(asked['labels'])})" if asked["labels"] else ""
        who = f"{printable(step.id)}, attempt {asked['attempt']}"
        lines.append(f"{who}, would give {printable(asked['tool'])}: {given}{labels}")
    return lines


def _whole(text: str) -> str:
    """Return a text as far as there is room for it, and how much of it is not shown."""
    told = printable(text)
    if len(told) <= GIVEN_COLUMNS:
        return told
    return f"{told[:GIVEN_COLUMNS]}… and {len(told) - GIVEN_COLUMNS} more characters, see --json"


def _trouble(step: StepResult) -> str:
    if status_of(step) == BLOCKED:
        return f"{printable(step.id)}: {printable(note_of(step))}"
    words = ", ".join((LOOKS[status_of(step)].word, *step_facts(step)))
    note = note_of(step)
    return f"{printable(step.id)}: {words}" + (f": {shortened(printable(note), NOTE_COLUMNS)}" if note else "")

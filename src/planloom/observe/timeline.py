"""When each step ran: a Gantt chart as SVG, and as text for terminals.

Rule 1: no clock is read; what still runs is drawn up to the latest moment on record.
Rule 2: without attempts a step is one bar from its first start to its end, the waits between attempts included.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    RunFinished,
    RunResumed,
    SpeculationAnswered,
    SpeculationSettled,
    StepDispatched,
    StepSpeculated,
)
from planloom.observe.looks import (
    LOOKS,
    cells,
    counted,
    duration_text,
    every_step,
    padded,
    printable,
    run_word,
    shortened,
    status_of,
    step_facts,
)
from planloom.observe.svg_parts import Canvas, escaped, fitted, num, text_width

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planloom.core.result import RunResult, StepResult
    from planloom.ports import Recorded

MAX_ROWS = 300
"""Steps drawn; what comes after is counted in a last line."""
CHART = 640.0
"""Width of the time axis, pixels."""
ROW = 26.0
_AXIS_TOP = 70.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt as it stands on record.

    Attributes:
        ended_at: Seconds since the epoch, or None while it is under way.
        failed: True when it ended in a failure, or with the engine.
        lane: "ahead" or "draft" for what ran on values nobody had confirmed; else "".
        outcome: What came of such a one: "confirmed", "rolled_back" or "spent"; "" while nobody knows.
    """

    step: str
    number: int
    started_at: float
    ended_at: float | None = None
    failed: bool = False
    lane: str = ""
    outcome: str = ""


def attempts_of(records: Iterable[Recorded]) -> list[Attempt]:
    """Return every attempt of a run's record, in the order they were dispatched."""
    found: dict[tuple[str, int, int], Attempt] = {}
    last_at = 0.0
    for record in records:
        event = record.event
        if isinstance(event, StepDispatched):
            found[event.step, event.attempt, event.epoch] = Attempt(event.step, event.attempt, event.at)
        elif isinstance(event, RunResumed):
            for key, attempt in found.items():
                if attempt.ended_at is None:  # went with its engine, unless its answer still comes
                    found[key] = replace(attempt, ended_at=max(last_at, attempt.started_at), failed=True)
        elif isinstance(event, AttemptSucceeded | AttemptFailed):
            failed = isinstance(event, AttemptFailed)
            key = (event.step, event.attempt, event.epoch)
            found[key] = Attempt(event.step, event.attempt, event.started_at, event.at, failed)
        last_at = event.at
    return list(found.values())


def speculated_of(records: Iterable[Recorded]) -> list[Attempt]:
    """Return what ran on values nobody had confirmed: drafts, and attempts ahead of their time, as they began."""
    found: list[Attempt] = []
    latest: dict[tuple[str, str], int] = {}
    for record in records:
        event = record.event
        match event:
            case StepSpeculated():
                latest[event.step, event.role] = len(found)
                found.append(Attempt(event.step, event.attempt, event.at, lane=event.role))
            case SpeculationAnswered() if (event.step, event.role) in latest:
                place = latest[event.step, event.role]
                found[place] = replace(found[place], ended_at=event.at, failed=not event.ok)
            case SpeculationSettled() if (event.step, event.role) in latest:
                place = latest[event.step, event.role]
                ended_at = found[place].ended_at or event.at
                found[place] = replace(found[place], ended_at=ended_at, outcome=event.outcome)
            case RunResumed() | RunFinished():
                found = [one if one.ended_at is not None else replace(one, ended_at=event.at) for one in found]
            case _:
                pass
    return found


@dataclass(frozen=True, slots=True)
class Bar:
    """One attempt, or a step without any: from when to when, in seconds from the run's start."""

    begin: float
    end: float
    status: str
    tip: str
    attempt: int = 0
    lane: str = ""
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One step's line: its label, its bars, and the words beside them."""

    label: str
    bars: tuple[Bar, ...]
    words: str
    status: str


def rows_of(result: RunResult, attempts: Sequence[Attempt], *, most: int = MAX_ROWS) -> tuple[list[Row], float, int]:
    """Return the rows, the seconds the axis spans, and how many steps were left out: not started, or beyond `most`."""
    steps = list(every_step(result.steps))
    by_step: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_step.setdefault(attempt.step, []).append(attempt)
    begun: dict[str, float] = {}
    for step in steps:
        moments = [one.started_at for one in by_step.get(step.id, ())]
        if step.started_at is not None or moments:
            begun[step.id] = min([*moments, *(() if step.started_at is None else (step.started_at,))])
    started = sorted((step for step in steps if step.id in begun), key=lambda step: begun[step.id])
    ends = [result.ended_at, *(step.ended_at for step in started), *(attempt.ended_at for attempt in attempts)]
    known = [moment for moment in (result.started_at, *begun.values(), *ends) if moment is not None]
    if not known:
        return [], 0.0, len(steps)
    zero, latest = min(known), max(known)
    rows = [_row(step, by_step.get(step.id, ()), zero, latest) for step in started[:most]]
    return rows, latest - zero, len(steps) - len(rows)


def _row(step: StepResult, attempts: Sequence[Attempt], zero: float, latest: float) -> Row:
    status = status_of(step)
    words = ", ".join((LOOKS[status].word, *step_facts(step)))
    begin = (step.started_at or zero) - zero
    end = (step.ended_at if step.ended_at is not None else latest) - zero
    bars = [_attempt_bar(attempt, status, zero, latest) for attempt in attempts]
    bars = bars or [Bar(begin, end, status, f"{step.id}: {words}")]
    return Row(step.id, tuple(bars), words, status)


def _attempt_bar(attempt: Attempt, status: str, zero: float, latest: float) -> Bar:
    end = attempt.ended_at if attempt.ended_at is not None else latest
    if attempt.ended_at is None:
        shown = "running" if status == "running" else status
    else:
        shown = "failed" if attempt.failed else "completed"
    words = [LOOKS[shown].word, duration_text(end - attempt.started_at)]
    if attempt.lane:
        words = [_LANE_WORDS.get(attempt.lane, attempt.lane), *words, _OUTCOME_WORDS.get(attempt.outcome, "")]
    tip = f"{attempt.step}, attempt {attempt.number}: {', '.join(word for word in words if word)}"
    return Bar(attempt.started_at - zero, end - zero, shown, tip, attempt.number, attempt.lane, attempt.outcome)


_LANE_WORDS = {"draft": "a cheaper model's draft", "ahead": "ran ahead, on values not yet confirmed"}
_OUTCOME_WORDS = {"confirmed": "confirmed", "rolled_back": "taken back, its result not used", "spent": "spent"}


def _ticks(span: float) -> list[float]:
    """Return round moments from 0 to the span, at most nine."""
    if span <= 0:
        return [0.0]
    step = 1e-4
    for factor in (2, 2.5, 2) * 12:
        if span / step <= 8:
            break
        step *= factor
    return [step * index for index in range(int(span / step + 1e-9) + 1)]


def timeline_svg(result: RunResult, *, attempts: Sequence[Attempt] = (), theme: str = "auto") -> str:
    """Return when each step that started ran, as SVG.

    Args:
        result: The run, under way or ended.
        attempts: Its attempts, see `attempts_of`; each is then a bar of its own.
        theme: "auto", "light" or "dark", as for `graph_svg`.

    Raises:
        ConfigError: No such theme.
    """
    rows, span, left_out = rows_of(result, attempts)
    canvas = Canvas(theme=theme)
    label_width = min(260.0, max([text_width(row.label, 12, bold=True) for row in rows] or [80.0]) + 40)
    beside = max([text_width(row.words, 11) for row in rows] or [0.0])
    left = 24 + label_width
    height = _AXIS_TOP + ROW * len(rows) + (30 if left_out else 0) + 26
    width = left + CHART + beside + 40
    subtitle = " · ".join((f"run {result.run_id}", run_word(result.status.value), duration_text(span)))
    canvas.text(24, 32, fitted(result.plan, width - 48, 17, bold=True), "pl-h1")
    canvas.text(24, 51, fitted(subtitle, width - 48, 12), "pl-h2")
    scale = CHART / span if span > 0 else 0.0
    for tick in _ticks(span) if rows else ():
        x = left + tick * scale
        bottom = _AXIS_TOP + 14 + ROW * len(rows)
        canvas.add(f'<path d="M{num(x)} {num(_AXIS_TOP + 8)}V{num(bottom)}" class="pl-tick"/>')
        canvas.text(x, _AXIS_TOP + 4, duration_text(tick) if tick else "0", "pl-fact", anchor="middle")
    for index, row in enumerate(rows):
        _draw_row(canvas, row, left, _AXIS_TOP + 14 + ROW * index, label_width, scale)
    if left_out:
        canvas.text(24, height - 22, f"{counted(left_out, 'step')} not started or not shown", "pl-fact")
    words = "\n".join(f"{row.label}: {row.words}" for row in rows[:100])
    return canvas.document(width, height, title=f"{result.plan}: timeline", description=f"{subtitle}\n{words}")


def _draw_row(canvas: Canvas, row: Row, left: float, y: float, label_width: float, scale: float) -> None:
    canvas.add(f'<g data-step="{escaped(row.label)}">')
    canvas.badge(row.status, 24, y + 4, 14)
    canvas.text(45, y + 15.5, fitted(row.label, label_width - 30, 12, bold=True), "pl-id pl-row")
    right = left
    for bar in row.bars:
        x, width = left + bar.begin * scale, max(2.5, (bar.end - bar.begin) * scale)
        canvas.add(f"<g><title>{escaped(bar.tip)}</title>")
        canvas.box(x, y + 3, width, 16, f"pl-fill-{bar.status} pl-bar", radius=4)
        canvas.add("</g>")
        right = max(right, x + width)
    canvas.text(right + 8, y + 15, row.words, "pl-fact")
    canvas.add("</g>")


_BLOCKS = " ▏▎▍▌▋▊▉█"


def timeline_text(result: RunResult, width: int = 80, *, ascii_only: bool = False) -> str:
    """Return when each step that started ran, as lines of at most `width` columns.

    Args:
        result: The run, under way or ended.
        width: Columns of the terminal; at least 40 are used.
        ascii_only: Use no sign beyond ASCII.
    """
    rows, span, left_out = rows_of(result, ())
    if not rows:
        return "no step has started\n"
    words = [duration_text(row.bars[-1].end - row.bars[0].begin) for row in rows]
    beside = max(map(len, words))
    label = min(max(cells(printable(row.label)) for row in rows), max(12, width // 3))
    chart = max(10, max(width, 40) - label - beside - 5)
    lines = []
    for row, beside_text in zip(rows, words, strict=True):
        sign = LOOKS[row.status].ascii if ascii_only else LOOKS[row.status].symbol
        name = padded(shortened(printable(row.label), label), label)
        bar = _text_bar(row.bars[0].begin, row.bars[-1].end, span, chart, ascii_only=ascii_only)
        lines.append(f"{sign} {name} {padded(bar, chart)} {padded(beside_text, beside, right=True)}")
    end = duration_text(span)
    lines.append(f"{' ' * (label + 2)} 0{padded(end, chart - 1, right=True)}")
    if left_out:
        lines.append(f"{counted(left_out, 'step')} not started or not shown")
    text = "\n".join(lines) + "\n"
    return text.encode("ascii", "backslashreplace").decode("ascii") if ascii_only else text


def _text_bar(begin: float, end: float, span: float, columns: int, *, ascii_only: bool) -> str:
    if span <= 0:
        return "=" if ascii_only else "█"
    first = min(columns - 1, int(begin / span * columns))
    eighths = max(1, round((end / span * columns - first) * 8))
    whole, part = divmod(min(eighths, (columns - first) * 8), 8)
    if ascii_only:
        return " " * first + "=" * max(1, whole)
    return " " * first + "█" * whole + (_BLOCKS[part] if part else "")

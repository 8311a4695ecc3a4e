"""How a status, a duration, an amount and a stranger's text are shown: one place for every picture, table and line.

Rule 1: a status is never shown by colour alone; symbol and word always go with it.
Rule 2: what is shown may come from anybody: `printable` before a terminal, `svg_parts.escaped` before SVG.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from planloom.core.result import FOR_A_PERSON, StepStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from planloom.core.result import StepResult

BLOCKED = "blocked"
"""Shown for a step that waits for a person."""


@dataclass(frozen=True, slots=True)
class Look:
    """Word and symbols of a status; `ascii` for terminals that cannot show the other."""

    word: str
    symbol: str
    ascii: str


LOOKS: dict[str, Look] = {
    StepStatus.PENDING: Look("pending", "○", "."),
    StepStatus.READY: Look("ready", "◌", ":"),
    StepStatus.RUNNING: Look("running", "▶", ">"),
    StepStatus.COMPLETED: Look("completed", "✓", "+"),
    StepStatus.FAILED: Look("failed", "✗", "x"),
    StepStatus.SKIPPED: Look("skipped", "↷", "-"),
    StepStatus.CANCELLED: Look("cancelled", "■", "#"),
    StepStatus.TIMED_OUT: Look("timed out", "◷", "t"),
    BLOCKED: Look("waits for a person", "?", "?"),
}
"""By `StepStatus` value, and for BLOCKED."""

RUN_WORDS = {"limit_exceeded": "limit exceeded", "waiting": "waits for a person"}


def status_of(step: StepResult) -> str:
    """Return the key of LOOKS under which this step is shown."""
    return BLOCKED if step.waiting in FOR_A_PERSON else step.status.value


def every_step(steps: Iterable[StepResult]) -> Iterator[StepResult]:
    """Yield the steps, each followed by its items or the steps of its sub-plan, and theirs."""
    stack = list(steps)[::-1]
    while stack:
        step = stack.pop()
        yield step
        stack.extend(reversed(step.parts))


_WAITS = {
    "approval": "waits for approval",
    "unknown": "nobody knows whether it was done",
    "retry": "waits to try again",
    "timer": "waits for its time",
    "rate": "waiting: rate",
}


def note_of(step: StepResult) -> str:
    """Return what else is to be said about a step: its error, why it was skipped, what it waits for, or ""."""
    if step.approval is not None and step.approval["attempt"]:
        return f"{_WAITS['approval']}: {step.approval['message']}"
    if step.waiting in _WAITS:
        return _WAITS[step.waiting] + (f" after {step.error}" if step.error else "")
    if step.error is not None:
        return step.error
    if step.skip_reason is not None:
        return step.skip_reason.value.replace("_", " ")
    return ""


def wait_text(reason: str, until: float | None) -> str:
    """Return what an attempt waits for and, local time, until about when: "waiting: rate until 12:03:04"."""
    if until is None:
        return f"waiting: {reason}"
    return f"waiting: {reason} until {datetime.fromtimestamp(until).astimezone():%H:%M:%S}"


def run_word(status: str) -> str:
    """Return a run's status in words."""
    return RUN_WORDS.get(status, status)


def duration_text(seconds: float | None) -> str:
    """Return "0.4 ms", "32 ms", "1.24 s", "2 min 5 s" or "3 h 7 min"; "" for None."""
    if seconds is None:
        return ""
    milliseconds = seconds * 1000
    if milliseconds < 1:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 1000 and round(milliseconds) < 1000:
        return f"{milliseconds:.0f} ms"
    if round(seconds) < 60:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def money_text(cost_usd: float | None) -> str:
    """Return "$1.25", or with four digits that say something below a cent; "" for None."""
    if cost_usd is None:
        return ""
    return f"${cost_usd:,.2f}" if cost_usd == 0 or cost_usd >= 0.01 else f"${cost_usd:.2g}"


def counted(number: int, noun: str) -> str:
    """Return "1 step", "12 steps"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


_SPACES = {"\t": " ", "\n": " ", "\r": " "}
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Control, format (bidirectional overrides), lone surrogates, private use, line and paragraph separators."""


def printable(text: object) -> str:
    """Return the text on one line, with everything that could steer a terminal written as an escape."""
    plain = str(text)
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(
        _SPACES.get(char) or (_escape(char) if unicodedata.category(char) in _INVISIBLE else char) for char in plain
    )


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def cells(text: str) -> int:
    """Return how many columns a terminal needs for the text."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def shortened(text: str, columns: int) -> str:
    """Return the text cut to this many columns, with "…" where something is missing."""
    if cells(text) <= columns:
        return text
    kept, used = [], 1
    for char in text:
        used += cells(char)
        if used > columns:
            break
        kept.append(char)
    return "".join(kept).rstrip() + "…"


def padded(text: str, columns: int, *, right: bool = False) -> str:
    """Return the text filled up with spaces to this many columns."""
    fill = " " * max(0, columns - cells(text))
    return fill + text if right else text + fill


def step_facts(step: StepResult) -> tuple[str, ...]:
    """Return what is worth saying about a step beside its status: time, cost, attempts."""
    latency = step.latency_ms
    facts = [
        duration_text(latency / 1000) if latency is not None else "",
        money_text(step.cost_usd) if step.cost_usd else "",
        counted(step.attempts, "attempt") if step.attempts > 1 else "",
    ]
    return tuple(fact for fact in facts if fact)

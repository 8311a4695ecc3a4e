"""I3 with what the tools themselves say: which calls were made of them.

A tool log is a file of JSON lines, one for each call that a tool has seen, written before or when it does its work:

    {"run": "run-1", "step": "pay", "attempt": 1, "key": "run-1/pay", "tool": "payments.send"}

`run` may be left out where the log holds the calls of one run only; `key` is the idempotency key that the tool was
given (`ToolContext.idempotency_key`). Lines that are empty are passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from planloom.errors import ToolLogError
from planloom.plan.policy import Effects
from planloom.testing.history.violation import LoggedCall

if TYPE_CHECKING:
    from planloom.testing.history.picture import RunPart, RunPicture
    from planloom.testing.history.violation import Findings


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    step: str
    attempt: int
    key: str
    tool: str
    run: str = ""


def read_tool_log(path: Path, *, run_id: str) -> list[LoggedCall]:
    """Return the calls of one run.

    Raises:
        ToolLogError: The file cannot be read, or a line of it is no call.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ToolLogError(f"cannot read the tool log {path}: {error}", remedy="name a file of JSON lines") from error
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            call = _Line.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise ToolLogError(
                f"line {number} of {path} is no call: {where + ': ' if where else ''}{problem['msg']}",
                remedy='write {"run": …, "step": …, "attempt": 1, "key": …, "tool": …}',
                line=number,
            ) from None
        if call.run in ("", run_id):
            found.append(LoggedCall(call.step, call.attempt, call.key, call.tool, call.run))
    return found


def check_calls(calls: Iterable[LoggedCall], picture: RunPicture, findings: Findings) -> None:
    """Judge what tools say was called against what is on record."""
    by_key: dict[tuple[str, str], list[LoggedCall]] = {}
    for call in calls:
        findings.count("I3", "calls in the tool log")
        part = picture.parts.get(call.step)
        effects = _effects(call, part, picture)
        if effects is not Effects.NONE and not _on_record(call, part):
            what = f"{call.tool} was called for attempt {call.attempt}, and no start of that is on record"
            findings.accuse("I3", picture.seq, call.step, what)
        if effects is Effects.ONCE:
            by_key.setdefault((call.tool, call.key), []).append(call)
    for (tool, key), same in by_key.items():
        steps = Counter(call.step for call in same)
        allowed = 1 + sum(_allowances(picture.parts.get(step)) for step in steps)
        if len(same) > allowed:
            what = f"{tool}, which may be called only once, was called {len(same)} times with key {key!r}"
            findings.accuse("I3", picture.seq, same[0].step, what)


def _effects(call: LoggedCall, part: RunPart | None, picture: RunPicture) -> Effects:
    if part is not None and part.step.tool is not None and part.step.effects is not None:
        return part.step.effects
    return picture.effects_of(call.tool)


def _on_record(call: LoggedCall, part: RunPart | None) -> bool:
    if part is None or not 1 <= call.attempt <= part.attempts:
        return False
    if part.step.tool is not None or part.step.model is not None:
        return True  # what a model calls is part of its step's attempt
    return any(name == call.tool for name in part.called)


def _allowances(part: RunPart | None) -> int:
    """Return how many times somebody said of a step that another attempt does nothing twice."""
    return part.clearances if part is not None else 0

"""`check_history`: is what a run's record says lawful? Judged from the record alone.

Rule 1: the heart is not asked: neither its state nor its decisions are used, so that no mistake of it excuses itself.
Rule 2: any sequence of events is judged, none raises; what the record cannot tell is not held against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from planloom.errors import PlanError
from planloom.testing.history.drawing import draw
from planloom.testing.history.endings import Endings
from planloom.testing.history.numbers import Numbers, check_prefix
from planloom.testing.history.picture import RunPicture
from planloom.testing.history.results import Results
from planloom.testing.history.spending import Spending
from planloom.testing.history.starts import Starts
from planloom.testing.history.tool_log import check_calls
from planloom.testing.history.violation import Findings, LoggedCall, Violation

if TYPE_CHECKING:
    from planloom.ports import Recorded


def check_history(
    records: Sequence[Recorded],
    *,
    tool_calls: Iterable[LoggedCall] | None = None,
    before: Sequence[Recorded] | None = None,
    run_id: str | None = None,
) -> list[Violation]:
    """Return every place where the record of a run breaks one of the laws I1 to I8; an empty list if it breaks none.

    Args:
        records: The whole record so far, of a run that has ended or not.
        tool_calls: What the tools say was called in this run.
        before: The record as it was known to be durable at an earlier moment, e.g. before a crash.
        run_id: The run's, where its plan refers to it; what depends on it is not judged without.
    """
    return judged(records, tool_calls=tool_calls, before=before, run_id=run_id).violations


def judged(
    records: Sequence[Recorded],
    *,
    tool_calls: Iterable[LoggedCall] | None = None,
    before: Sequence[Recorded] | None = None,
    run_id: str | None = None,
) -> Findings:
    """Return the same, with what was looked at."""
    picture, findings = RunPicture(run_id), Findings()
    ends = Endings(picture, findings)
    judges = (
        Numbers(picture, findings), Results(picture, findings), Starts(picture, findings),
        Spending(picture, findings), ends,
    )  # fmt: skip
    if before is not None:
        check_prefix(before, records, findings)
    if not records:
        findings.accuse("I1", 0, "", "the record is empty")
    for entry in records:
        for judge in judges:
            if not judge.look(entry):
                break
        try:
            draw(picture, entry)
        except PlanError as error:
            findings.accuse("record", entry.seq, getattr(entry.event, "step", ""), f"its plan is none: {error.message}")
    if tool_calls is not None:
        check_calls(tool_calls, picture, findings)
    if not findings.violations:  # else what is left undone may be no more than what follows from it
        ends.end()
    return findings

"""Records for tests of what judges them: as they were recorded, and altered in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from planloom.core.events import (
    FACT_TYPES,
    AttemptFailed,
    AttemptSucceeded,
    CallEnded,
    CallStarted,
    Event,
    OutputStreamed,
    ResultRefused,
    StepDispatched,
)
from planloom.ports import Recorded
from tests.journals.recording import read

RECORDINGS = Path(__file__).parent.parent / "journals" / "v0.1"
OF_ATTEMPTS = (AttemptSucceeded, AttemptFailed, OutputStreamed, CallStarted, CallEnded)


def recorded(name: str) -> list[Recorded]:
    """Return a recording, by the name of its file."""
    return read(RECORDINGS / f"{name}.jsonl")


def altered(
    record: Sequence[Recorded],
    *,
    out: Sequence[int] = (),
    other: Mapping[int, Mapping[str, Any]] | None = None,
    moved: Mapping[int, int] | None = None,
    after: Mapping[int, Sequence[Event]] | None = None,
) -> list[Recorded]:
    """Return the record altered, and numbered and caused as if it had come about so.

    Args:
        out: Events that are not there.
        other: Fields that are others, by event.
        moved: Events that stand elsewhere: behind which.
        after: Events that came as well, by the one they stand behind.
    """
    moved = moved or {}
    came: list[tuple[int, int, Event]] = []
    for entry in record:
        if entry.seq not in out and entry.seq not in moved:
            came.append((entry.seq, entry.cause, replace(entry.event, **(other or {}).get(entry.seq, {}))))
        for seq, behind in moved.items():
            if behind == entry.seq:
                was = record[seq - 1]
                came.append((was.seq, was.cause, was.event))
        came += [(0, 0, event) for event in (after or {}).get(entry.seq, ())]
    return _numbered(came)


def _numbered(came: Sequence[tuple[int, int, Event]]) -> list[Recorded]:
    seqs = {old: new for new, (old, _, _) in enumerate(came, start=1) if old}
    starts: dict[str, int] = {}
    found: list[Recorded] = []
    turn = 0
    for seq, (_, cause, event) in enumerate(came, start=1):
        if isinstance(event, (*FACT_TYPES, ResultRefused)):
            turn = seq
            if isinstance(event, OF_ATTEMPTS):
                found.append(Recorded(seq, starts.get(event.step, 0), event))
            else:
                found.append(Recorded(seq, seqs.get(cause, 0), event))
        else:
            found.append(Recorded(seq, turn, event))
        if isinstance(event, StepDispatched):
            starts[event.step] = seq
    return found

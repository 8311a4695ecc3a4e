"""The moves a step may make, drawn from the table the engine itself obeys."""

from __future__ import annotations

from planloom.core.result import ENDED, RunStatus, SkipReason, StepStatus
from planloom.core.state import TRANSITIONS
from scripts.reference.source import field_notes_of_enum

TITLE = "States"


def body() -> str:
    arrows = [f"    [*] --> {StepStatus.PENDING}"]
    for status in StepStatus:
        arrows += [f"    {status} --> {after}" for after in StepStatus if after in TRANSITIONS.get(status, ())]
    arrows += [f"    {status} --> [*]" for status in StepStatus if status in ENDED]
    return "\n".join(
        [
            "## A step",
            "",
            "```mermaid",
            "stateDiagram-v2",
            *arrows,
            "```",
            "",
            *_table(StepStatus),
            "",
            "A skipped step says why:",
            "",
            *(f"- `{reason}`" for reason in SkipReason),
            "",
            "## A run",
            "",
            *_table(RunStatus),
        ]
    )


def _table(of: type[StepStatus] | type[RunStatus]) -> list[str]:
    notes = field_notes_of_enum(of)
    return ["| status | meaning |", "|---|---|", *(f"| `{status}` | {notes.get(status.name, '')} |" for status in of)]

"""Every event a journal may hold: facts, then decisions, with their fields."""

from __future__ import annotations

import typing

from planloom.core import events
from scripts.reference.source import field_notes, field_types, introduction

TITLE = "Events"
USUAL = {
    "step": "Key of the step.",
    "attempt": "1 for the first try.",
    "epoch": "How many engines have taken the run up; a result of an earlier one is refused.",
    "at": "Seconds since the epoch.",
    "started_at": "Seconds since the epoch at which the attempt began.",
}


def body() -> str:
    parts = [
        "A journal holds these events per run, in order, numbered without gaps. *Facts* come from outside; *decisions*",
        "are what the engine made of them. `step` is a step's key: its id, `map[3]` for an item, `sub/extract` inside",
        "a sub-plan.",
        "",
        "## Facts",
        *(_section(kind) for kind in typing.get_args(events.Fact)),
        "## Decisions",
        *(_section(kind) for kind in typing.get_args(events.Decision)),
    ]
    return "\n".join(parts)


def _section(kind: type) -> str:
    notes = USUAL | field_notes(kind)
    text = "" if (kind.__doc__ or "").startswith(f"{kind.__name__}(") else introduction(kind.__doc__)
    lines = [f"### {kind.__name__}", "", *([text, ""] if text else []), "| field | type | meaning |", "|---|---|---|"]
    for name, (written, default) in field_types(kind).items():
        shown = written.replace("|", "\\|") + (
            "" if default is None or default.startswith("field(") else f" = {default}"
        )
        lines.append(f"| `{name}` | `{shown}` | {notes.get(name, '')} |")
    return "\n".join([*lines, ""])

"""Every error: its class, its code, who must act, and what it means."""

from __future__ import annotations

import inspect
import re

from planloom import errors
from scripts.reference.source import introduction

TITLE = "Errors"
BRANCH = re.compile(r"^(?P<indent>[│ ]*)[├└]── (?P<name>\w+)(?: \(\w+\))?(?: {2,}(?P<text>.+))?$")


def body() -> str:
    rows = [
        f"| `{kind.code}` | `{kind.__name__}` | {who} | {introduction(kind.__doc__)} |"
        for kind, who in _kinds_and_who().items()
    ]
    return "\n".join(
        [
            "Every error is a `PlanloomError`. `str(error)` is the problem and a `try:` line; `error.to_dict()` has",
            "`code`, `message`, `remedy` and the facts, ready for JSON. The class says who must act.",
            "",
            "```text",
            _drawing(),
            "```",
            "",
            "| code | class | who must act | what it means |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _drawing() -> str:
    lines = (inspect.getdoc(errors) or "").splitlines()
    drawn = [
        line for line in lines if BRANCH.match(line.strip("\n").removeprefix("    ")) or line.strip() == "PlanloomError"
    ]
    return inspect.cleandoc("\n".join(drawn))


def _kinds_and_who() -> dict[type[errors.PlanloomError], str]:
    """Return the classes in the order of the drawing, each with the words beside its topmost ancestor there."""
    found: dict[type[errors.PlanloomError], str] = {}
    who = ""
    for line in _drawing().splitlines()[1:]:
        branch = BRANCH.match(line)
        assert branch is not None
        if not branch["indent"]:
            who = (branch["text"] or "").partition(":")[0]
        found[getattr(errors, branch["name"])] = who
    return found

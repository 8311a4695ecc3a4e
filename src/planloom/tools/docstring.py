"""A tool's docstring: what it does, and what each parameter is, from a Google-style `Args:` section."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

_SECTION = re.compile(
    r"^(Args|Arguments|Parameters|Returns|Return|Yields|Raises|Examples?|Notes?|Attributes|Source):\s*$"
)
_PARAMETER = re.compile(r"^\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")


@dataclass(frozen=True, slots=True)
class Docstring:
    description: str
    parameters: dict[str, str]


def read_docstring(text: str | None) -> Docstring:
    """Return the text before the first section, and the entries of `Args`, each on one line."""
    lines = inspect.cleandoc(text or "").splitlines()
    sections = [place for place, line in enumerate(lines) if _SECTION.match(line)]
    first = sections[0] if sections else len(lines)
    args = next((place for place in sections if lines[place].startswith(("Args", "Arguments", "Parameters"))), None)
    return Docstring("\n".join(lines[:first]).strip(), {} if args is None else _entries(lines[args + 1 :]))


def _entries(lines: list[str]) -> dict[str, str]:
    """Return the entries of a section: each begins at the section's own indent, deeper lines continue it."""
    entries: dict[str, str] = {}
    indent = next((len(line) - len(line.lstrip()) for line in lines if line.strip()), 0)
    name = ""
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if line.strip() and depth == 0:
            break
        match = _PARAMETER.match(line.strip()) if depth == indent else None
        if match:
            name = match[1]
            entries[name] = match[2].strip()
        elif name and line.strip():
            entries[name] = f"{entries[name]} {line.strip()}".strip()
    return entries

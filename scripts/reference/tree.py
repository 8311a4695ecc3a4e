"""The rooms of the package, each file with the first line of its docstring."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from scripts.reference.source import PACKAGE, summary

if TYPE_CHECKING:
    from pathlib import Path

TITLE = "The tree"


def body() -> str:
    lines = ["src/planloom/", *_branches(PACKAGE, "")]
    width = max(len(name) for name, _, _ in (line.partition("\t") for line in lines))
    drawn = [f"{name.ljust(width)}  {text}".rstrip() for name, _, text in (line.partition("\t") for line in lines)]
    return "```text\n" + "\n".join(drawn) + "\n```"


def _branches(folder: Path, indent: str) -> list[str]:
    entries = sorted(
        (path for path in folder.iterdir() if path.suffix in (".py", ".sql") or (path.is_dir() and _has_code(path))),
        key=lambda path: (path.name != "__init__.py", path.is_dir(), path.name),
    )
    lines = []
    for entry in entries:
        last = entry is entries[-1]
        name = entry.name + ("/" if entry.is_dir() else "")
        lines.append(f"{indent}{'└── ' if last else '├── '}{name}\t{_summary(entry)}")
        if entry.is_dir():
            lines += _branches(entry, indent + ("    " if last else "│   "))
    return lines


def _has_code(folder: Path) -> bool:
    return folder.name != "__pycache__" and any(path.suffix in (".py", ".sql") for path in folder.rglob("*"))


def _summary(path: Path) -> str:
    if path.suffix != ".py":
        return ""
    return summary(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))

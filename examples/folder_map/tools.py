"""Tools of the folder map: list a folder's text files, measure one of them, add the measures up."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from planloom import tool


@tool(name="folder.files", effects="none")
def files(folder: str, pattern: str = "**/*") -> list[str]:
    """Return the paths of all files that match, sorted, so that a second look gives the same order."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder} is not a folder")
    return sorted(str(path) for path in root.glob(pattern) if path.is_file())


@tool(name="folder.measure", effects="none")
def measure(path: str) -> dict[str, Any]:
    """Return words, longest line and SHA-256 of one UTF-8 text file.

    Raises:
        ValueError: The file is not UTF-8 text.
    """
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{Path(path).name} is not UTF-8 text (byte {error.start})") from error
    return {
        "file": Path(path).name,
        "words": len(text.split()),
        "longest_line": max((len(line) for line in text.splitlines()), default=0),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


@tool(name="folder.summary", effects="none")
def summary(measures: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Add up what could be measured; a file that could not is None here."""
    known = [entry for entry in measures if entry is not None]
    return {
        "files": len(known),
        "unreadable": len(measures) - len(known),
        "words": sum(entry["words"] for entry in known),
        "longest_line": max((entry["longest_line"] for entry in known), default=0),
        "distinct": len({entry["sha256"] for entry in known}),
    }

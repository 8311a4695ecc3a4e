"""A Markdown text without its code: `prose_of`."""

from __future__ import annotations

import re

_FENCE = re.compile(r"[ \t]*(?:> ?)*(`{3,}|~{3,})(.*)")
_TICKS = re.compile(r"`+")
_ESCAPED = re.compile(r"\\[\[\]()@`\\]")


def prose_of(text: str) -> str:
    """Return a text without fenced blocks, code between backticks and escaped marks. Paragraphs stay apart."""
    paragraphs: list[list[str]] = [[]]
    fence = ""
    for line in text.splitlines():
        match = _FENCE.match(line)
        mark = match[1] if match else ""
        if fence:
            if mark.startswith(fence) and match and not match[2].strip():
                fence = ""
        elif mark and match and not (mark[0] == "`" and "`" in match[2]):
            fence = mark
            paragraphs.append([])
        elif line.strip():
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    return "\n\n".join(_without_spans(_ESCAPED.sub(" ", "\n".join(lines))) for lines in paragraphs if lines)


def _without_spans(text: str) -> str:
    """Take out what stands between two runs of equally many backticks."""
    runs = [match.span() for match in _TICKS.finditer(text)]
    ends: dict[int, int] = {}
    closing: list[int | None] = [None] * len(runs)
    for place in range(len(runs) - 1, -1, -1):
        length = runs[place][1] - runs[place][0]
        closing[place] = ends.get(length)
        ends[length] = place
    kept: list[str] = []
    start = place = 0
    while place < len(runs):
        end = closing[place]
        if end is None:
            place += 1
            continue
        kept.append(text[start : runs[place][0]])
        start = runs[end][1]
        place = end + 1
    return " ".join((*kept, text[start:]))

"""The pieces that what notebooks show is put together from: a frame with its colours, tables, values cut short.

Rule 1: everything that came from outside goes through `said`, `table` or `value_text`; nothing else writes it.
Rule 2: a frame stands alone: no script, no link, no font and no image from anywhere.
Rule 3: the page around it decides between light and dark where it says so (JupyterLab, VS Code), else the viewer.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from planloom.observe.looks import LOOKS, shortened
from planloom.observe.svg_parts import FONT, colour_rules, escaped, palette

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SHORT = 100
"""Characters of a value in a table."""
LONG = 4_000
"""Characters of a value by itself."""
NOTE = 400
"""Characters of an error or a description."""


def said(text: object, most: int = NOTE) -> str:
    """Return a stranger's text for a page: cut short, escaped, and kept from turning what stands beside it around."""
    return f"<bdi>{escaped(cut(str(text), most))}</bdi>"


def cut(text: str, most: int) -> str:
    """Return at most so many characters of a text, with "…" where something is missing."""
    return text if len(text) <= most else text[:most].rstrip() + "…"


def value_text(value: Any, most: int, *, indent: int | None = None) -> str:
    """Return a value as people read it, text as it is and anything else as JSON; no more of it than is shown."""
    if isinstance(value, str):
        return cut(value, most)
    pieces, length = [], 0
    for piece in json.JSONEncoder(ensure_ascii=False, indent=indent, default=repr).iterencode(value):
        pieces.append(piece)
        length += len(piece)
        if length > most:
            break
    return cut("".join(pieces), most)


def preview(value: Any) -> str:
    """Return a value on one line of a table, or "" for None."""
    return "" if value is None else shortened(" ".join(value_text(value, 2 * SHORT).split()), SHORT)


def badge(status: str, words: str) -> str:
    """Return a status as its sign and words, in its colour; a run's status has no sign of its own."""
    sign = f"{LOOKS[status].symbol} " if status in LOOKS else ""
    return f'<b class="pl-s" style="color:var(--pl-{status},var(--pl-text))">{escaped(sign + words)}</b>'


def table(columns: Sequence[str], rows: Iterable[Mapping[str, object]], *, right: Iterable[str] = ()) -> str:
    """Return rows as a table; a cell that has a `status` is a badge, None is empty."""
    flush = set(right)
    head = "".join(f"<th{_align(name, flush)}>{escaped(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{_align(name, flush)}>{_cell(row.get(name))}</td>" for name in columns) + "</tr>"
        for row in rows
    )
    return f'<div class="pl-scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_WIDE = frozenset({"output", "note", "description", "only if"})
"""Columns of texts, which may be broken anywhere; the others keep their words whole."""


def _align(name: str, flush: set[str]) -> str:
    return ' class="pl-r"' if name in flush else ' class="pl-w"' if name in _WIDE else ""


def _cell(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, Mark):
        return badge(value.status, LOOKS[value.status].word)
    return said(value)


class Mark:
    """A step's status, in a table."""

    __slots__ = ("status",)

    def __init__(self, status: str) -> None:
        self.status = status


def folded(title: str, inside: str, *, is_open: bool = False) -> str:
    """Return a part of a frame that opens and closes."""
    return f"<details{' open' if is_open else ''}><summary>{escaped(title)}</summary>{inside}</details>"


def scrolling(svg: str) -> str:
    """Return a picture in as much room as there is."""
    return f'<div class="pl-scroll pl-pic">{svg}</div>'


def text_block(text: str) -> str:
    """Return a text with its lines as they are."""
    return f'<pre class="pl-scroll">{escaped(text)}</pre>'


def frame(head: str, *parts: str) -> str:
    """Return the whole of what is shown: a heading and what stands below it, with the rules for how it looks."""
    return f'<div class="pl-nb"><style>{_rules()}</style><div class="pl-head-line">{head}</div>{"".join(parts)}</div>'


@cache
def _rules() -> str:
    light, dark = _theme("light"), _theme("dark")
    return (
        f".pl-nb{{{light}}}@media(prefers-color-scheme:dark){{.pl-nb{{{dark}}}}}"
        f'[data-jp-theme-light="true"] .pl-nb,.vscode-light .pl-nb{{{light}}}'
        f'[data-jp-theme-light="false"] .pl-nb,.vscode-dark .pl-nb{{{dark}}}' + _LAYOUT
    )


def _theme(name: str) -> str:
    """Return the colours of a theme as variables, and as rules for the pictures inside."""
    colours = palette(name)
    variables = "".join(f"--pl-{use}:{colour};" for use, colour in colours.items())
    return f"color-scheme:{name};{variables}{colour_rules(colours)}"


_LAYOUT = (
    f".pl-nb{{font:13px/1.45 {FONT};color:var(--pl-text);background:var(--pl-page);border:1px solid var(--pl-line);"
    "border-radius:10px;padding:10px 14px;max-width:100%;box-sizing:border-box;overflow:hidden}"
    ".pl-nb .pl-head-line{display:flex;flex-wrap:wrap;gap:2px 10px;align-items:baseline}"
    ".pl-nb .pl-n{font-size:15px;font-weight:650;overflow-wrap:anywhere}.pl-nb .pl-m{color:var(--pl-muted)}"
    ".pl-nb p{margin:4px 0;overflow-wrap:anywhere}.pl-nb .pl-bad{color:var(--pl-failed)}"
    ".pl-nb .pl-scroll{overflow:auto;max-height:560px;margin:6px 0}"
    ".pl-nb .pl-pic svg{display:block;max-width:none;margin:0}"
    ".pl-nb table{border-collapse:collapse;margin:0;font-size:12px;color:inherit;width:auto}"
    ".pl-nb th,.pl-nb td{text-align:left;vertical-align:top;padding:3px 10px 3px 0;border:0;background:none;"
    "border-bottom:1px solid var(--pl-line);max-width:420px;overflow-wrap:break-word;white-space:normal}"
    ".pl-nb th{color:var(--pl-muted);font-weight:600}.pl-nb .pl-r{text-align:right;white-space:nowrap}"
    ".pl-nb .pl-w{overflow-wrap:anywhere;min-width:90px}"
    ".pl-nb td .pl-s{white-space:nowrap}"
    ".pl-nb pre{background:var(--pl-inset);color:inherit;padding:8px 10px;border-radius:6px;font-size:12px;"
    "white-space:pre-wrap;overflow-wrap:anywhere}"
    ".pl-nb code{background:var(--pl-inset);color:inherit;padding:1px 4px;border-radius:4px}"
    ".pl-nb summary{cursor:pointer;color:var(--pl-muted);font-weight:600;padding:3px 0}"
)

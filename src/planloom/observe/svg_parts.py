"""The pieces SVG pictures are put together from: colours for light and dark, icons, escaped text.

Rule 1: everything that came from outside goes through `escaped` or `Canvas.text`; nothing else writes it.
Rule 2: a picture stands alone: no script, no link, no font and no image from anywhere.
Rule 3: class names and ids begin with `pl-`, so that a picture can stand inside a page.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING
from zlib import crc32

from planloom.errors import ConfigError, suggestion
from planloom.observe.looks import cells

if TYPE_CHECKING:
    from collections.abc import Mapping

FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
THEMES = ("auto", "light", "dark")

_LIGHT = {
    "page": "#ffffff", "card": "#ffffff", "line": "#d5dbe5", "edge": "#94a3b8", "text": "#0f172a", "muted": "#5b6779",
    "inset": "#f6f8fb", "completed": "#15803d", "failed": "#c81e1e", "running": "#1d4ed8", "pending": "#64748b",
    "ready": "#4f46e5", "skipped": "#64748b", "cancelled": "#7c2d12", "timed_out": "#c2410c", "blocked": "#a16207",
    "tool": "#2563eb", "model": "#7c3aed", "agent": "#c026d3", "code": "#0d9488", "plan": "#0284c7",
    "approve": "#b45309", "wait": "#64748b", "task": "#e11d48",
}  # fmt: skip
_DARK = {
    "page": "#0b1120", "card": "#131c2e", "line": "#2b3850", "edge": "#64748b", "text": "#e8eef7", "muted": "#9aa8bd",
    "inset": "#0f1829", "completed": "#4ade80", "failed": "#f87171", "running": "#60a5fa", "pending": "#94a3b8",
    "ready": "#a5b4fc", "skipped": "#94a3b8", "cancelled": "#fdba74", "timed_out": "#fb923c", "blocked": "#facc15",
    "tool": "#60a5fa", "model": "#a78bfa", "agent": "#e879f9", "code": "#2dd4bf", "plan": "#38bdf8",
    "approve": "#fbbf24", "wait": "#94a3b8", "task": "#fb7185",
}  # fmt: skip
_STATUSES = (
    "completed", "failed", "running", "pending", "ready", "skipped", "cancelled", "timed_out", "blocked",
)  # fmt: skip
_KINDS = ("tool", "model", "agent", "code", "plan", "approve", "wait", "task")

_STROKES = {
    # kinds, drawn in a square of 16
    "tool": "M9.6 4.2a.7.7 0 0 0 0 1l1.2 1.2a.7.7 0 0 0 1 0l2.5-2.5a4 4 0 0 1-5.3 5.3l-4.6 4.6a1.4 1.4 0 0 1-2-2"
    "l4.6-4.6a4 4 0 0 1 5.3-5.3z",
    "model": "M8 1.8 9.6 6.4 14.2 8 9.6 9.6 8 14.2 6.4 9.6 1.8 8 6.4 6.4z",
    "agent": "M4 6.2h8a1.4 1.4 0 0 1 1.4 1.4v4.6a1.4 1.4 0 0 1-1.4 1.4H4a1.4 1.4 0 0 1-1.4-1.4V7.6A1.4 1.4 0 0 1 4 6.2z"
    "M8 6.2V2.6M6.4 2.6h3.2M5.8 9.2v1.4M10.2 9.2v1.4",
    "code": "M5.2 4.4 1.8 8l3.4 3.6M10.8 4.4 14.2 8l-3.4 3.6M9.2 2.8 6.8 13.2",
    "plan": "M8 1.8 14.2 5 8 8.2 1.8 5zM1.8 8.2 8 11.4l6.2-3.2M1.8 11 8 14.2 14.2 11",
    "approve": "M8 7.4a2.7 2.7 0 1 0 0-5.4 2.7 2.7 0 0 0 0 5.4zM2.8 14a5.2 5.2 0 0 1 6.6-5M9.4 12l1.6 1.6 3.2-3.4",
    "wait": "M8 14a6 6 0 1 0 0-12 6 6 0 0 0 0 12zM8 4.6V8l2.4 1.5",
    "task": "M3.4 2h9.2v12H3.4zM5.8 5.2h4.4M5.8 8h4.4M5.8 10.8h2.4",
    # statuses
    "completed": "M4.4 8.3 7 10.9l4.7-5.3",
    "failed": "M5.3 5.3l5.4 5.4M10.7 5.3l-5.4 5.4",
    "running": "M6.4 5v6l4.8-3z",
    "pending": "M5 8h.01M8 8h.01M11 8h.01",
    "ready": "M8 4.8V8l2 1.3",
    "skipped": "M4.6 9.6C5.4 6.2 9 5.4 11 8M11.3 5.2 11.2 8.4 8.2 8",
    "cancelled": "M5.7 5.7h4.6v4.6H5.7z",
    "timed_out": "M5.4 4.6h5.2L8 8zM5.4 11.4h5.2L8 8z",
    "blocked": "M6.2 6.3a1.9 1.9 0 1 1 2.6 1.8c-.5.2-.8.6-.8 1.1M8 11.4h.01",
}
_PEN = 'fill="none" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round"'


def check_theme(theme: str) -> None:
    """Raise ConfigError for a theme that does not exist."""
    if theme not in THEMES:
        raise ConfigError(f"no theme {theme!r}", remedy=suggestion(theme, THEMES))


_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(text: object) -> str:
    """Return the text for use in XML, between tags or in a quoted attribute; what XML cannot hold becomes U+FFFD."""
    return escape(_ILLEGAL.sub("\ufffd", str(text)), quote=True)


_NARROWEST = 0.36
"""Width of the narrowest characters, by the font size."""
_NARROW = frozenset("iljtfrI.,:;|!'()[]{} /\\-")
_WIDE = frozenset("mwMWABCDEFGHKNOPQRSTUVXYZ@%_—…→&")


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return about how wide the text is at this font size, in pixels; errs towards too wide."""
    units = sum(
        _NARROWEST if char in _NARROW else 0.74 if char in _WIDE else 0.58 if cells(char) < 2 else 1.04 for char in text
    )
    return units * size * (1.07 if bold else 1.0)


def fitted(text: str, width: float, size: float, *, bold: bool = False) -> str:
    """Return the text on one line, cut with "…" where it is wider than `width` pixels."""
    line = " ".join(text.split())
    line = line[: int(width / (_NARROWEST * size)) + 2]  # no more can fit, and measuring what is cut takes its square
    if text_width(line, size, bold=bold) <= width:
        return line
    while line and text_width(line + "…", size, bold=bold) > width:
        line = line[:-1]
    return line.rstrip() + "…"


class Canvas:
    """Collects the elements of one picture and wraps them up at the end."""

    def __init__(self, *, theme: str) -> None:
        check_theme(theme)
        self.theme = theme
        self.lines: list[str] = []
        self.icons: set[str] = set()

    def add(self, element: str) -> None:
        self.lines.append(element)

    def text(self, x: float, y: float, text: str, style: str, *, anchor: str = "") -> None:
        where = f' text-anchor="{anchor}"' if anchor else ""
        self.add(f'<text x="{num(x)}" y="{num(y)}" class="{style}"{where}>{escaped(text)}</text>')

    def box(self, x: float, y: float, width: float, height: float, style: str, *, radius: float = 0.0) -> None:
        corner = f' rx="{num(radius)}"' if radius else ""
        size = f'width="{num(width)}" height="{num(height)}"'
        self.add(f'<rect x="{num(x)}" y="{num(y)}" {size}{corner} class="{style}"/>')

    def icon(self, name: str, x: float, y: float, size: float, style: str) -> None:
        """Draw a kind's or a status's icon in a square with this upper left corner."""
        self.icons.add(name)
        where = f'x="{num(x)}" y="{num(y)}" width="{num(size)}" height="{num(size)}"'
        self.add(f'<use href="#pl-i-{name}" {where} class="{style}"/>')

    def badge(self, status: str, x: float, y: float, size: float) -> None:
        """Draw a status as a filled circle with its symbol."""
        self.add(
            f'<circle cx="{num(x + size / 2)}" cy="{num(y + size / 2)}" r="{num(size / 2)}" class="pl-fill-{status}"/>'
        )
        self.icon(status, x, y, size, "pl-mark")

    def document(self, width: float, height: float, *, title: str, description: str) -> str:
        """Return the whole picture as SVG text."""
        label = f"pl-{crc32(repr((title, description, len(self.lines))).encode('utf-8', 'replace')):08x}"
        symbols = "".join(
            f'<symbol id="pl-i-{name}" viewBox="0 0 16 16"><path d="{_STROKES[name]}" {_PEN}/></symbol>'
            for name in sorted(self.icons)
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{num(width)}" height="{num(height)}" '
            f'viewBox="0 0 {num(width)} {num(height)}" class="pl-root" role="img" '
            f'aria-labelledby="{label}-t {label}-d">',
            f'<title id="{label}-t">{escaped(title)}</title>',
            f'<desc id="{label}-d">{escaped(description)}</desc>',
            f"<style>{style_sheet(self.theme)}</style>",
            f"<defs>{symbols}{_ARROWHEADS}</defs>",
            f'<rect width="{num(width)}" height="{num(height)}" rx="12" class="pl-page"/>',
        )
        return "\n".join((*head, *self.lines, "</svg>")) + "\n"


_ARROWHEADS = "".join(
    f'<marker id="pl-arrow{suffix}" viewBox="0 0 8 8" refX="6.6" refY="4" markerWidth="7" markerHeight="7" '
    f'orient="auto-start-reverse"><path d="M0.8 0.8 7.2 4 0.8 7.2z" class="pl-head{suffix}"/></marker>'
    for suffix in ("", "-done")
)


def num(value: float) -> str:
    """Return the number with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def palette(theme: str) -> Mapping[str, str]:
    """Return the colours of a theme, "light" or "dark", by what they are for: "page", "text", a status, a kind."""
    return _LIGHT if theme == "light" else _DARK


def style_sheet(theme: str) -> str:
    """Return the rules for this theme; for "auto" the light ones, and the dark ones where the viewer prefers them."""
    if theme == "auto":
        return _LAYOUT_RULES + colour_rules(_LIGHT) + "@media (prefers-color-scheme:dark){" + colour_rules(_DARK) + "}"
    return _LAYOUT_RULES + colour_rules(_LIGHT if theme == "light" else _DARK)


_LAYOUT_RULES = (
    f".pl-root text{{font-family:{FONT}}}"
    ".pl-h1{font-size:17px;font-weight:650}.pl-h2{font-size:12px}.pl-id{font-size:13px;font-weight:600}"
    ".pl-sub{font-size:11.5px}.pl-fact{font-size:11px}.pl-word{font-size:11px;font-weight:600}"
    ".pl-if{font-size:10.5px;font-style:italic}.pl-dot{font-size:10.5px;font-weight:600}"
    ".pl-card,.pl-lid{stroke-width:1.2}.pl-inset{stroke-width:1.2;stroke-dasharray:5 4}"
    ".pl-edge,.pl-edge-done,.pl-edge-off{fill:none;stroke-width:1.5}.pl-edge-done{stroke-width:1.8}"
    ".pl-edge-off{opacity:.55}.pl-maybe{stroke-dasharray:6 4}"
    ".pl-skipped>.pl-card{stroke-dasharray:4 3}"
    ".pl-tick{stroke-width:1}.pl-row{font-size:12px}.pl-bar{fill-opacity:.85}"
    "@keyframes pl-pulse{50%{stroke-opacity:.25}}"
    "@media (prefers-reduced-motion:no-preference){.pl-running>.pl-card{animation:pl-pulse 1.6s ease-in-out infinite}}"
)


def colour_rules(colour: Mapping[str, str]) -> str:
    """Return the rules that give a picture the colours of a palette."""
    rules = [
        f".pl-page,.pl-head-bg{{fill:{colour['page']}}}",
        f".pl-card,.pl-lid{{fill:{colour['card']};stroke:{colour['line']}}}",
        f".pl-inset{{fill:{colour['inset']};stroke:{colour['edge']}}}",
        f".pl-id,.pl-h1,.pl-dot{{fill:{colour['text']}}}",
        f".pl-h2,.pl-sub,.pl-fact,.pl-if{{fill:{colour['muted']}}}",
        f".pl-edge,.pl-edge-off{{stroke:{colour['edge']}}}.pl-head{{fill:{colour['edge']}}}",
        f".pl-edge-done{{stroke:{colour['completed']}}}.pl-head-done{{fill:{colour['completed']}}}",
        f".pl-tick{{stroke:{colour['line']}}}.pl-track{{fill:{colour['line']}}}",
        f".pl-mark{{stroke:{colour['card']};color:{colour['card']}}}",
    ]
    for status in _STATUSES:
        rules.append(f".pl-fill-{status}{{fill:{colour[status]}}}.pl-ink-{status}{{fill:{colour[status]}}}")
        rules.append(f".pl-{status}>.pl-card,.pl-{status}>.pl-lid{{stroke:{colour[status]}}}")
    for kind in _KINDS:
        rules.append(f".pl-k-{kind}{{stroke:{colour[kind]}}}.pl-t-{kind}{{fill:{colour[kind]};fill-opacity:.13}}")
    return "".join(rules)

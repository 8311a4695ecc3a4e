"""Which piece of a prompt reads which, as one SVG picture that stands alone.

Rule 1: rows read, columns are read; the darker, the fewer hops, and a word in the legend for every shade.
Rule 2: the picture is no larger than `MOST_LINES` lines make it: in longer prompts neighbours share one, which shows
the nearest that any of them reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.context.blocks import bit_runs
from planloom.context.layout import SegmentKind
from planloom.observe.looks import counted
from planloom.observe.svg_parts import Canvas, escaped, fitted, num, text_width

if TYPE_CHECKING:
    from planloom.context.layout import SegmentLayout

MOST_LINES = 120
NAMED_UP_TO = 60
"""Lines that are wide enough for a name each."""
MARGIN = 28.0
HEADER = 66.0
WIDEST_NAME = 190.0
_LARGEST_CELL, _GRID = 20.0, 720.0
_ALWAYS = -1
"""The shade of what is read whatever the graph says."""
_OPACITY = (1.0, 0.72, 0.5, 0.34)
"""Of 0, 1, 2, and more hops."""


def mask_svg(layout: SegmentLayout, *, theme: str = "auto") -> str:
    """Return the layout's mask as SVG: a line for each segment, shaded by hops.

    Args:
        layout: The prompt.
        theme: "auto" follows what the viewer prefers; "light" and "dark" do not.

    Raises:
        ConfigError: There is no such theme.
    """
    canvas = Canvas(theme=theme)
    lines = _lines(len(layout.segments))
    names = [_name(layout, line) for line in lines]
    cell = min(_LARGEST_CELL, _GRID / max(1, len(lines)))
    named = len(lines) <= NAMED_UP_TO
    left = MARGIN + (10 + max((text_width(_short(name), 11) for name in names), default=0.0) if named else 0.0)
    side = cell * len(lines)
    subtitle = _subtitle(layout)
    shades = _shades(layout, lines)
    legend = [(shade, words) for shade, words in _legend(layout) if shade in shades]
    needed = [text_width("Who reads whom", 17, bold=True), text_width(subtitle, 12)]
    needed += [30 + text_width(words, 11) for _, words in legend]
    width = max(left + side, MARGIN + max(needed)) + MARGIN
    canvas.text(MARGIN, 38, "Who reads whom", "pl-h1")
    canvas.text(MARGIN, 56, subtitle, "pl-h2")
    canvas.box(left, HEADER + 10, side, side, "pl-inset")
    for shade, cells in sorted(shades.items()):
        canvas.add(_path(cells, left, HEADER + 10, cell, shade))
    for place, name in enumerate(names):
        _draw_line(canvas, layout, lines[place], name, (left, HEADER + 10 + place * cell, side, cell), named=named)
    bottom = _draw_legend(canvas, legend, HEADER + 10 + side + 16)
    return canvas.document(width, bottom, title="Who reads whom", description=_described(layout, subtitle))


def _lines(segments: int) -> list[range]:
    """Return which segments each line stands for, as evenly as can be."""
    count = min(segments, MOST_LINES)
    return [range(at * segments // count, (at + 1) * segments // count) for at in range(count)]


def _name(layout: SegmentLayout, line: range) -> str:
    first, last = (_segment_name(layout, at) for at in (line[0], line[-1]))
    return first if len(line) == 1 else f"{first} … {last}"


def _segment_name(layout: SegmentLayout, at: int) -> str:
    segment = layout.segments[at]
    return segment.node if segment.node is not None else segment.kind.value


def _short(name: str) -> str:
    return fitted(name, WIDEST_NAME, 11)


def _subtitle(layout: SegmentLayout) -> str:
    parts = (counted(layout.n, "token"), counted(len(layout.chunks), "chunk"), counted(layout.policy.max_hops, "hop"))
    return " · ".join((*parts, f"{layout.pair_fraction:.1%} of the pairs"))


def _shades(layout: SegmentLayout, lines: list[range]) -> dict[int, list[tuple[int, int, int]]]:
    """Return for each shade its cells, as (line, first column, after the last)."""
    of = [place for place, line in enumerate(lines) for _ in line]
    found: dict[int, list[tuple[int, int, int]]] = {}
    for place, line in enumerate(lines):
        by_shade: dict[int, int] = {}
        for q in line:
            for first, after in bit_runs(layout.rows[q]):
                for k in range(first, after):
                    shade = _shade(layout, q, k)
                    by_shade[shade] = by_shade.get(shade, 0) | 1 << of[k]
        taken = 0
        for shade in sorted(by_shade, key=lambda shade: (shade == _ALWAYS, shade)):
            found.setdefault(shade, []).extend((place, *run) for run in bit_runs(by_shade[shade] & ~taken))
            taken |= by_shade[shade]
    return found


def _shade(layout: SegmentLayout, q: int, k: int) -> int:
    if q != k and (layout.kinds[k] is not SegmentKind.CHUNK or layout.kinds[q] is not SegmentKind.CHUNK):
        return _ALWAYS
    return min(layout.near[q].get(k, 0), len(_OPACITY) - 1)


def _legend(layout: SegmentLayout) -> list[tuple[int, str]]:
    last = len(_OPACITY) - 1
    farthest = "3 hops" if layout.policy.max_hops == last else f"{last} hops and more"
    return [
        (_ALWAYS, "read by all, or reads all"),
        (0, "itself, its own document, or no node of the graph"),
        *((hops, counted(hops, "hop")) for hops in range(1, last)),
        (last, farthest),
    ]


def _path(cells: list[tuple[int, int, int]], left: float, top: float, cell: float, shade: int) -> str:
    parts = [
        f"M{num(left + first * cell)} {num(top + place * cell)}h{num((after - first) * cell)}"
        f"v{num(cell)}h{num((first - after) * cell)}z"
        for place, first, after in cells
    ]
    return f'<path d="{"".join(parts)}" {_ink(shade)}/>'


def _ink(shade: int) -> str:
    if shade == _ALWAYS:
        return 'class="pl-fill-pending" fill-opacity="0.35"'
    return f'class="pl-fill-running" fill-opacity="{_OPACITY[shade]}"'


def _draw_line(
    canvas: Canvas,
    layout: SegmentLayout,
    line: range,
    name: str,
    place: tuple[float, float, float, float],
    *,
    named: bool,
) -> None:
    """Draw a line's name, and lay over it what tells more to who points at it."""
    x, y, width, height = place
    node = layout.segments[line[0]].node
    canvas.add(f'<g data-node="{escaped(node)}">' if node is not None and len(line) == 1 else "<g>")
    canvas.add(f"<title>{escaped(_tip(layout, line, name))}</title>")
    if named:
        canvas.text(x - 8, y + height / 2 + 4, _short(name), "pl-fact", anchor="end")
    size = f'width="{num(width)}" height="{num(height)}"'
    canvas.add(f'<rect x="{num(x)}" y="{num(y)}" {size} fill="none" pointer-events="all"/>')
    canvas.add("</g>")


def _tip(layout: SegmentLayout, line: range, name: str) -> str:
    if len(line) > 1:
        return f"{name} ({counted(len(line), 'segment')})"
    at = line[0]
    read = [_read(layout, at, other) for other in sorted(layout.near[at], key=lambda other: layout.near[at][other])]
    lines = [f"{name} ({layout.kinds[at]}, {counted(layout.segments[at].length, 'token')})"]
    lines += [f"reads {', '.join(read[:20])}" + (", …" if len(read) > 20 else "")] if read else []
    return "\n".join(lines)


def _read(layout: SegmentLayout, at: int, other: int) -> str:
    away = layout.near[at][other]
    return f"{_segment_name(layout, other)} ({counted(away, 'hop')})" if away else _segment_name(layout, other)


def _draw_legend(canvas: Canvas, legend: list[tuple[int, str]], y: float) -> float:
    for shade, words in legend:
        where = f'x="{num(MARGIN)}" y="{num(y)}" width="14" height="14" rx="2"'
        canvas.add(f"<rect {where} {_ink(shade)}/>")
        canvas.text(MARGIN + 22, y + 11, words, "pl-fact")
        y += 20
    return y + 14


def _described(layout: SegmentLayout, subtitle: str) -> str:
    """Return the picture in words, for those who cannot see it."""
    told = [_tip(layout, range(at, at + 1), _segment_name(layout, at)) for at in range(min(100, len(layout.segments)))]
    more = len(layout.segments) - len(told)
    return "\n".join([subtitle, *told, *([f"And {counted(more, 'segment')} more."] if more else [])])

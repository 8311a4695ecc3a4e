"""A plan, and how a run of it stands, as one SVG picture that stands alone.

Rule 1: what a colour says, a symbol and a word say too.
Rule 2: every step is a `<g data-step="KEY">`, so that a page can find it again; nothing in here runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planloom.core.result import StepStatus
from planloom.observe.layout import Layout, layered
from planloom.observe.looks import LOOKS, counted, duration_text, money_text, run_word
from planloom.observe.picture import Arrow, Box, Picture, Tally, grouped, picture_of
from planloom.observe.svg_parts import Canvas, check_theme, escaped, fitted, num, text_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planloom.core.result import RunResult
    from planloom.observe.layout import Point
    from planloom.plan.model import Plan

COMPACT_FROM = 300
"""Steps from which those alike are drawn as one, and every step as a small box."""
MARGIN = 28.0
LEAST, MOST = 168.0, 300.0
"""Width of a step's box, pixels."""
STACK = 5.0
"""How far each sheet of a stack shows behind the one before it, pixels."""
HEADER = 62.0
LINE = 17.0


def graph_svg(plan: Plan, result: RunResult | None = None, *, theme: str = "auto") -> str:
    """Return the plan's graph as SVG, with each step's status, time, cost and attempts where there is a result.

    Args:
        plan: The plan.
        result: A run of it, under way or ended.
        theme: "auto" follows what the viewer prefers; "light" and "dark" do not.

    Raises:
        ConfigError: No such theme.
        PlanError: The plan has a circle, or steps that do not exist.
    """
    picture = picture_of(plan, result)
    head = headline(plan, result)
    return picture_svg(picture, subtitle=head, theme=theme)


def picture_svg(picture: Picture, *, subtitle: str = "", theme: str = "auto") -> str:
    """Return any picture, a plan's or an agent graph's, as SVG; see `graph_svg`."""
    check_theme(theme)
    steps = len(picture.boxes)
    compact = steps > COMPACT_FROM
    if compact:
        picture = grouped(picture)
        compact = len(picture.boxes) > COMPACT_FROM
    block = _block(picture, compact=compact)
    canvas = Canvas(theme=theme)
    legend = _legend(picture)
    width = max(block.width + 2 * MARGIN, 380.0, min(text_width(subtitle, 12), 900.0) + 2 * MARGIN)
    title = fitted(picture.name, width - 2 * MARGIN, 17, bold=True)
    canvas.text(MARGIN, 32, title, "pl-h1")
    canvas.text(MARGIN, 51, fitted(subtitle, width - 2 * MARGIN, 12), "pl-h2")
    _draw(canvas, block, (width - block.width) / 2, HEADER + 10)
    bottom = HEADER + 10 + block.height + 26
    bottom = _draw_legend(canvas, legend, width, bottom)
    return canvas.document(width, bottom, title=picture.name, description=_described(picture, subtitle))


def headline(plan: Plan, result: RunResult | None) -> str:
    """Return what stands below the name: steps, run, status, time and cost, or what the plan says of itself."""
    parts = [counted(len(plan.steps), "step")]
    if result is not None:
        parts += [f"run {result.run_id}", run_word(result.status.value)]
        parts += [duration_text(result.active_s) if result.ended_at is not None else ""]
        parts += [money_text(result.cost_usd) if result.cost_usd else ""]
    elif plan.description:
        parts.append(" ".join(plan.description.split()))
    return " · ".join(part for part in parts if part)


def _described(picture: Picture, subtitle: str) -> str:
    """Return the picture in words, for those who cannot see it."""
    lines = [subtitle] if subtitle else []
    before: dict[int, list[str]] = {}
    for arrow in picture.arrows:
        before.setdefault(arrow.target, []).append(picture.boxes[arrow.source].id)
    for index, box in enumerate(picture.boxes[:100]):
        after = f", after {', '.join(before[index][:10])}" if index in before else ""
        status = f": {LOOKS[box.status].word}" if box.status is not None else ""
        lines.append(f"{box.id} ({box.kind} {box.doer}){after}{status}.")
    if len(picture.boxes) > 100:
        lines.append(f"And {counted(len(picture.boxes) - 100, 'step')} more.")
    return "\n".join(lines)


# --- measuring --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Card:
    """A box with its texts cut to size and, for a sub-plan, what is drawn inside it."""

    box: Box
    width: float
    height: float
    compact: bool
    lines: tuple[tuple[str, str], ...] = ()
    """(text, style) below the id."""
    inside: _Block | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    """A picture laid out: its cards, and where they and their edges go."""

    picture: Picture
    cards: tuple[_Card, ...]
    layout: Layout
    compact: bool

    @property
    def width(self) -> float:
        return self.layout.width

    @property
    def height(self) -> float:
        return self.layout.height


def _block(picture: Picture, *, compact: bool) -> _Block:
    cards = tuple(_card(box, compact=compact) for box in picture.boxes)
    count = len(cards)
    room = max(6, round((count * (1.3 if compact else 0.8)) ** 0.5 * 1.4)) if count > 8 else None
    layout = layered(
        [(card.width, card.height) for card in cards],
        picture.edges,
        gap_x=12 if compact else 26,
        gap_y=34 if compact else 46 if all(arrow.when is None for arrow in picture.arrows) else 62,
        max_per_level=room,
    )
    return _Block(picture, cards, layout, compact)


def _card(box: Box, *, compact: bool) -> _Card:
    if compact:
        return _Card(box, 96.0, 26.0, compact=True)
    if box.inside is not None:
        inside = _block(box.inside, compact=False)
        width = max(inside.width + 32, LEAST, min(MOST, text_width(box.id, 13, bold=True) + 78))
        lines = _lines(box, width - 74)
        return _Card(box, width, 34 + LINE * len(lines) + inside.height + 36, False, lines, inside)
    badge = 32 if box.status is not None else 0
    wanted = max(
        text_width(box.id, 13, bold=True) + badge,
        text_width(_doer_line(box), 11.5) + badge,
        text_width(_tally_line(box), 11),
        text_width(_fact_line(box), 11, bold=True),
        text_width(f"if {box.when}", 10.5) if box.when is not None else 0,
    )
    width = min(MOST, max(LEAST, wanted + 64))
    lines = _lines(box, width - 62)
    bar = 9 if box.tally is not None and box.tally.by_status else 0
    sheets = STACK * 2 if box.tally is not None else 0
    return _Card(box, width + sheets, 34 + LINE * len(lines) + bar + sheets, False, lines)


def _doer_line(box: Box) -> str:
    return box.kind if box.doer == box.kind else f"{box.kind} · {box.doer}"


def _fact_line(box: Box) -> str:
    if box.status is None:
        return ""
    return " · ".join((LOOKS[box.status].word, *box.facts))


def _tally_line(box: Box) -> str:
    tally = box.tally
    if tally is None:
        return ""
    if box.members:
        text = f"{tally.width} steps alike"
    else:
        text = "once for each item" if tally.width is None else f"for each of {counted(tally.width, 'item')}"
    if tally.by_status:
        text += f" · {tally.done} done" + (f" · {tally.failed} failed" if tally.failed else "")
    return text


def _lines(box: Box, width: float) -> tuple[tuple[str, str], ...]:
    lines = [(fitted(_doer_line(box), width, 11.5), "pl-sub")]
    if box.tally is not None:
        lines.append((fitted(_tally_line(box), width, 11), "pl-fact"))
    if box.when is not None:
        lines.append((fitted(f"if {box.when}", width, 10.5), "pl-if"))
    if box.status is not None:
        lines.append((fitted(_fact_line(box), width, 11, bold=True), f"pl-word pl-ink-{box.status}"))
    return tuple(lines)


# --- drawing ----------------------------------------------------------------------------------


def _draw(canvas: Canvas, block: _Block, x: float, y: float) -> None:
    canvas.add(f'<g transform="translate({num(x)} {num(y)})">')
    for arrow, route in zip(block.picture.arrows, block.layout.routes, strict=True):
        if route:
            _draw_edge(canvas, block, arrow, route)
    for card, place in zip(block.cards, block.layout.places, strict=True):
        _draw_card(canvas, card, place.x, place.y)
    for arrow, route in zip(block.picture.arrows, block.layout.routes, strict=True):
        if route and arrow.when is not None and not block.compact:
            _draw_condition(canvas, arrow.when, route)
    canvas.add("</g>")


def _draw_edge(canvas: Canvas, block: _Block, arrow: Arrow, route: Sequence[Point]) -> None:
    source, target = block.picture.boxes[arrow.source], block.picture.boxes[arrow.target]
    if StepStatus.SKIPPED in (source.status, target.status):
        style, head = "pl-edge-off", "pl-arrow"
    elif source.status == StepStatus.COMPLETED and target.status not in (None, StepStatus.PENDING):
        style, head = "pl-edge-done", "pl-arrow-done"
    else:
        style, head = "pl-edge", "pl-arrow"
    if arrow.when is not None:
        style += " pl-maybe"
    tip = f"{source.id} → {target.id}" + (f", if {arrow.when}" if arrow.when is not None else "")
    canvas.add(
        f'<path d="{_curve(route)}" class="{style}" marker-end="url(#{head})"><title>{escaped(tip)}</title></path>'
    )


def _curve(route: Sequence[Point]) -> str:
    """Return a path that is straight where it passes a level and bends between levels."""
    x, y = route[0]
    parts = [f"M{num(x)} {num(y)}"]
    last = len(route) - 1
    for index, (to_x, to_y) in enumerate(route[1:], 1):
        if index % 2 == 0 and abs(to_x - x) >= 0.6:
            # ends in a short straight piece at the latest, so that the arrowhead points down
            until = to_y - 8 if index == last - 1 else to_y
            parts.append(_bend(x, y, to_x, until))
            y = until
        if to_y != y:
            parts.append(f"L{num(to_x)} {num(to_y)}")
        x, y = to_x, to_y
    return "".join(parts)


def _bend(x: float, y: float, to_x: float, to_y: float) -> str:
    pull = (to_y - y) * 0.55
    return f"C{num(x)} {num(y + pull)} {num(to_x)} {num(to_y - pull)} {num(to_x)} {num(to_y)}"


def _draw_condition(canvas: Canvas, when: str, route: Sequence[Point]) -> None:
    text = fitted(f"if {when}", 190, 10.5)
    (x, y), (to_x, to_y) = route[-3], route[-2]
    width = text_width(text, 10.5) + 12
    middle, top = (x + to_x) / 2, (y + to_y) / 2 - 10
    canvas.add(f"<g><title>{escaped(f'if {when}')}</title>")
    canvas.box(middle - width / 2, top, width, 16, "pl-head-bg", radius=8)
    canvas.text(middle, top + 11.5, text, "pl-if", anchor="middle")
    canvas.add("</g>")


def _draw_card(canvas: Canvas, card: _Card, x: float, y: float) -> None:
    box = card.box
    style = f"pl-step pl-{box.status}" if box.status is not None else "pl-step"
    canvas.add(f'<g class="{style}" data-step="{escaped(box.key)}" transform="translate({num(x)} {num(y)})">')
    canvas.add(f"<title>{escaped(_tip(box))}</title>")
    if card.compact:
        _draw_small(canvas, card)
    else:
        _draw_large(canvas, card)
    canvas.add("</g>")


def _draw_small(canvas: Canvas, card: _Card) -> None:
    box = card.box
    if box.tally is not None:
        canvas.box(3, 3, card.width, card.height, "pl-card", radius=7)
    canvas.box(0, 0, card.width, card.height, "pl-card", radius=7)
    if box.status is not None:
        canvas.badge(box.status, 6, 6, 14)
    else:
        canvas.icon(box.kind, 6, 6, 14, f"pl-k-{box.kind}")
    canvas.text(25, 17, fitted(box.id, card.width - 31, 10.5, bold=True), "pl-dot")


def _draw_large(canvas: Canvas, card: _Card) -> None:
    box, width, height = card.box, card.width, card.height
    if box.tally is not None:
        width, height = width - STACK * 2, height - STACK * 2
        for sheet in (2, 1):
            canvas.box(STACK * sheet, STACK * sheet, width, height, "pl-card", radius=10)
    canvas.box(0, 0, width, height, "pl-card", radius=10)
    canvas.box(12, 12, 28, 28, f"pl-t-{box.kind}", radius=8)
    canvas.icon(box.kind, 17, 17, 18, f"pl-k-{box.kind}")
    right = 34.0 if box.status is not None else 12.0
    canvas.text(50, 25, fitted(box.id, width - 50 - right, 13, bold=True), "pl-id")
    for row, (text, style) in enumerate(card.lines):
        canvas.text(50, 25 + LINE * (row + 1), text, style)
    if box.status is not None:
        canvas.badge(box.status, width - 29, 11, 18)
    if box.tally is not None and box.tally.by_status:
        _draw_tally(canvas, box.tally, 50, height - 13, width - 62)
    if card.inside is not None:
        top = 36 + LINE * len(card.lines)
        canvas.box(8, top, width - 16, height - top - 8, "pl-inset", radius=8)
        _draw(canvas, card.inside, (width - card.inside.width) / 2, top + 12)


def _draw_tally(canvas: Canvas, tally: Tally, x: float, y: float, width: float) -> None:
    canvas.box(x, y, width, 4, "pl-track", radius=2)
    whole = tally.width or sum(tally.by_status.values())
    for status in (StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.TIMED_OUT, StepStatus.RUNNING):
        share = width * tally.by_status.get(status, 0) / whole if whole else 0.0
        if share:
            canvas.box(x, y, share, 4, f"pl-fill-{status.value}", radius=2)
            x += share


def _tip(box: Box) -> str:
    lines = [f"{box.id} ({_doer_line(box)})"]
    lines += [box.description] if box.description else []
    lines += [f"if {box.when}"] if box.when is not None else []
    lines += [_tally_line(box)] if box.tally is not None else []
    lines += [_fact_line(box)] if box.status is not None else []
    lines += [box.note] if box.note else []
    if box.members:
        lines.append(", ".join(box.members[:40]) + (", …" if len(box.members) > 40 else ""))
    return "\n".join(lines)


# --- the legend -------------------------------------------------------------------------------


def _legend(picture: Picture) -> list[tuple[str, str]]:
    """Return (what to draw, words) for everything in the picture that needs a word."""
    found = [(status, LOOKS[status].word) for status in LOOKS if status in picture.statuses()]
    if any(arrow.when is not None for arrow in picture.arrows):
        found.append(("maybe", "only if its condition holds"))
    if any(box.tally is not None and not box.members for box in picture.boxes):
        found.append(("stack", "once for each item"))
    return found


def _draw_legend(canvas: Canvas, legend: Sequence[tuple[str, str]], width: float, y: float) -> float:
    """Draw the legend in as many rows as it takes; return where the picture ends."""
    if not legend:
        return y
    x = MARGIN
    for what, words in legend:
        needed = 24 + text_width(words, 11) + 18
        if x + needed > width - MARGIN / 2 and x > MARGIN:
            x, y = MARGIN, y + 22
        if what == "maybe":
            canvas.add(f'<path d="M{num(x - 2)} {num(y + 7)}h18" class="pl-edge pl-maybe"/>')
        elif what == "stack":
            canvas.box(x + 3, y + 4, 12, 9, "pl-card pl-lid", radius=2)
            canvas.box(x, y + 1, 12, 9, "pl-card pl-lid", radius=2)
        else:
            canvas.badge(what, x, y, 14)
        canvas.text(x + 21, y + 11, words, "pl-fact")
        x += needed
    return y + 36

"""Aligned columns of plain text, for terminals and logs.

Rule 1: cells are made printable here, so a table can never steer a terminal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.observe.looks import cells, padded, printable, shortened

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

LEAST_COLUMNS = 8
"""A column is never cut narrower than this to make a table fit."""


def table_text(
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str],
    *,
    width: int | None = None,
    right: Collection[str] = (),
) -> str:
    """Return rows under a heading line, each column as wide as its widest cell.

    Args:
        rows: Values by column; None and missing ones are left empty.
        columns: What to show, in order; also the headings, underscores shown as spaces.
        width: Columns of the terminal; the widest columns are cut until the table fits. None: nothing is cut.
        right: Columns set flush right, for numbers.
    """
    heads = [column.replace("_", " ") for column in columns]
    body = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(cells, column)) for column in zip(heads, *body, strict=True)]
    if width is not None:
        _squeeze(widths, width - 2 * (len(columns) - 1))
    lines = []
    for texts in (heads, *body):
        line = "  ".join(
            padded(shortened(text, space), space, right=column in right)
            for text, space, column in zip(texts, widths, columns, strict=True)
        )
        lines.append(line.rstrip())
    return "\n".join(lines)


def _cell(value: object) -> str:
    return "" if value is None else printable(value)


def _squeeze(widths: list[int], room: int) -> None:
    while sum(widths) > room:
        widest = widths.index(max(widths))
        if widths[widest] <= LEAST_COLUMNS:
            return
        widths[widest] -= 1

"""One row of the table: what was measured, beside what, and whether that is within the budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

WORSE = 1.25
"""A ratio that grew by more than this since the baseline is reported."""

Verdict = Literal["within stretch", "within budget", "OVER BUDGET", "beyond stretch", ""]


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a row may show.

    Attributes:
        limit, stretch: The most allowed, and what we would like; None: there is none.
        of: What they bind: the ratio to the reference, or our own number.
        why: What stands in the way, told when the row is over.
        front: False for rows that are not on the front page.
    """

    limit: float | None
    stretch: float | None = None
    of: Literal["ratio", "ours"] = "ratio"
    why: str = ""
    front: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured.

    Attributes:
        what: Its name, unique in the table; the baseline is kept by it.
        unit: Of `ours` and `reference`.
        beside: What the reference is; "" where there is none.
        budget: None for rows that only explain others.
    """

    what: str
    unit: str
    ours: float
    reference: float | None = None
    beside: str = ""
    budget: Budget | None = None

    @property
    def ratio(self) -> float | None:
        return self.ours / self.reference if self.reference else None

    @property
    def bound(self) -> float | None:
        """Return the number that the budget is about."""
        return self.ours if self.budget is not None and self.budget.of == "ours" else self.ratio

    @property
    def verdict(self) -> Verdict:
        budget, bound = self.budget, self.bound
        if budget is None or bound is None:
            return ""
        if budget.limit is not None and bound > budget.limit:
            return "OVER BUDGET"
        if budget.stretch is not None and bound <= budget.stretch:
            return "within stretch"
        return "beyond stretch" if budget.limit is None else "within budget"

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of `COLUMNS`."""
        return (
            self.what,
            f"{number(self.ours)} {self.unit}",
            f"{number(self.reference)} {self.unit}" if self.reference is not None else "",
            self.beside,
            f"{self.ratio:.2f}" if self.ratio is not None else "",
            self._budget_text(),
            self.verdict,
        )

    def _budget_text(self) -> str:
        budget = self.budget
        if budget is None:
            return ""
        unit = "×" if budget.of == "ratio" else f" {self.unit}"
        limit = f"≤ {number(budget.limit)}{unit}" if budget.limit is not None else ""
        stretch = f"(≤ {number(budget.stretch)}{unit})" if budget.stretch is not None else ""
        return f"{limit} {stretch}".strip()


COLUMNS = ("what", "ours", "reference", "beside", "ratio", "budget (stretch)", "verdict")


def number(value: float) -> str:
    """Return three digits or more, never an exponent."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def as_text(rows: Iterable[Row]) -> str:
    """Return the rows as columns for a terminal."""
    table = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(line[at]) for line in table) for at in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table)


def as_markdown(rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> str:
    """Return the rows as a Markdown table of these columns."""
    places = [COLUMNS.index(name) for name in columns]
    lines = [[row.cells()[at] for at in places] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *lines))


def over_budget(rows: Iterable[Row]) -> list[str]:
    """Return a sentence for each row over its budget."""
    told = []
    for row in rows:
        budget, bound = row.budget, row.bound
        if budget is None or budget.limit is None or bound is None or row.verdict != "OVER BUDGET":
            continue
        unit = "×" if budget.of == "ratio" else f" {row.unit}"
        why = f": {budget.why}" if budget.why else ""
        told.append(f"**{row.what}**: {number(bound)}{unit} where {number(budget.limit)}{unit} is the most{why}.")
    return told


def worse_than(baseline: dict[str, float], rows: Iterable[Row]) -> list[str]:
    """Return a sentence for each row whose ratio grew by more than a quarter."""
    return [
        f"{row.what}: the ratio was {baseline[row.what]:.2f} and is {row.ratio:.2f}"
        for row in rows
        if row.ratio is not None and row.what in baseline and row.ratio > WORSE * baseline[row.what]
    ]

"""The table in the documents, between markers: drawn by `make bench UPDATE=1` and by nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.rows import Row, as_markdown, over_budget

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- measured: begin -->"
END = "<!-- measured: end -->"


def update(rows: Sequence[Row], facts: Mapping[str, str]) -> None:
    """Put what was measured into both documents."""
    replace_between(ROOT / "docs/benchmarks.md", full(rows, facts))
    replace_between(ROOT / "README.md", brief(rows, facts))


def full(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """Return every row, the machine, and what is over its budget."""
    machine = "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
    return f"{as_markdown(rows)}\n\nMeasured on:\n\n{machine}\n\n{_over(rows)}"


def brief(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """Return the rows of the front page, without what each is beside."""
    bound = [row for row in rows if row.budget is not None and row.budget.limit is not None and row.budget.front]
    table = as_markdown(bound, ("what", "ours", "ratio", "budget (stretch)", "verdict"))
    machine = f"{facts['processor']}; Python {facts['python'].split()[-1]}; fsync {facts['fsync of 4 KB']}"
    why = "\n\nWhy what is over budget is so: [benchmarks](docs/benchmarks.md)." if over_budget(bound) else ""
    return f"{table}\n\nOn {machine}, {facts['date']}.{why}"


def _over(rows: Sequence[Row]) -> str:
    told = over_budget(rows)
    return "Over budget:\n\n" + "\n".join(f"- {line}" for line in told) if told else "Nothing is over its budget."


def replace_between(page: Path, text: str) -> None:
    """Put the text between the markers of a page, in place of what is there."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no place for the table: it needs {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")

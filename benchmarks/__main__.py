"""`python -m benchmarks [SUITE …]`: measure, print one table, and compare it with the baseline."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    chunk_kv,
    cluster,
    durable,
    gasa,
    growth,
    heart,
    in_memory,
    journal,
    large,
    machine,
    makespan,
    masks,
    packing,
    pages,
    postgres,
    sandboxes,
    server,
    start_up,
    token_speculation,
)
from benchmarks.rows import Row, as_text, over_budget, worse_than
from benchmarks.timing import Scale, wall_s

Measure = Callable[[Scale, Path], Coroutine[Any, Any, list[Row]]]
SUITES: dict[str, Measure] = {
    "in_memory": in_memory.measure,
    "makespan": makespan.measure,
    "durable": durable.measure,
    "heart": heart.measure,
    "large": large.measure,
    "start_up": start_up.measure,
    "growth": growth.measure,
    "journal": journal.measure,
    "sandboxes": sandboxes.measure,
    "server": server.measure,
    "masks": masks.measure,
    "packing": packing.measure,
    "gasa": gasa.measure,
    "token_speculation": token_speculation.measure,
    "chunk_kv": chunk_kv.measure,
}
CLUSTER: dict[str, Measure] = {"postgres": postgres.measure, "cluster": cluster.measure}
"""Suites that start servers: measured only when they are named."""
NEED_TORCH = ("gasa", "token_speculation", "chunk_kv")
"""Suites without rows where torch is missing."""
BASELINE = Path(__file__).with_name("baseline.json")
PLACE = Path(".planloom")
"""Databases are made here, beside where runs are kept: `/tmp` may be memory, which makes every fsync free."""


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=PLACE) as place:
        folder = Path(place).resolve()
        facts = machine.facts(folder)
        print("\n".join(f"{name}: {fact}" for name, fact in facts.items()), flush=True)
        rows = measured(asked.suites or list(SUITES), Scale(tiny=asked.tiny), folder)
    print(f"\n{as_text(rows)}\n")
    for line in over_budget(rows):
        print(f"over budget: {line}")
    if asked.compare:
        for line in worse_than(json.loads(BASELINE.read_text(encoding="utf-8")), rows):
            print(f"worse than the baseline: {line}")
    if asked.json is not None:
        asked.json.write_text(json.dumps({"machine": facts, "rows": [_plain(row) for row in rows]}, indent=1) + "\n")
    if asked.update:
        pages.update(rows, facts)
        ratios = {row.what: round(row.ratio, 3) for row in rows if row.ratio is not None}
        BASELINE.write_text(json.dumps(ratios, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measured(names: Sequence[str], scale: Scale, folder: Path) -> list[Row]:
    """Return the rows of these suites, in the table's order."""
    rows: list[Row] = []
    for name, measure in {**SUITES, **CLUSTER}.items():
        if name in names:
            place = folder / name
            place.mkdir()
            started = wall_s()
            rows += asyncio.run(measure(scale, place))
            print(f"{name}: {wall_s() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def _plain(row: Row) -> dict[str, Any]:
    """Return the row as it goes into a JSON file."""
    limit = row.budget.limit if row.budget is not None else None
    return {
        "what": row.what,
        "unit": row.unit,
        "ours": row.ours,
        "reference": row.reference,
        "beside": row.beside,
        "ratio": row.ratio,
        "budget": limit,
        "verdict": row.verdict,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of: {', '.join((*SUITES, *CLUSTER))}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as JSON")
    parser.add_argument("--compare", action="store_true", help="warn of ratios a quarter worse than the baseline's")
    parser.add_argument("--update", action="store_true", help="redraw the tables in the documents, and the baseline")
    parser.add_argument("--tiny", action="store_true", help="a little of everything: shows that it works, no more")
    return parser


if __name__ == "__main__":
    main()

"""`python -m tests.simulation`: live many seeds, or look at one; `make sim` does.

Exit code 1: a law was broken.
"""

from __future__ import annotations

import argparse
import os
import sys

from tests.simulation.life import live
from tests.simulation.sweep import Found, Sweep, look_twice, sweep, work
from tests.simulation.trace import lines

SHOWN = 5
"""Failing seeds that are shown with their traces."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Simulate runs, seed by seed.")
    parser.add_argument("--seeds", type=int, default=2_000, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2, help="processes")
    parser.add_argument("--seed", type=int, help="only this one, with its whole record")
    parser.add_argument("--sabotage", action="store_true", help="see that bugs put in on purpose are found")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(*map(int, given.work.split(",")))
        return 0
    if given.seed is not None:
        return _look(given.seed)
    if given.sabotage:
        from tests.simulation.sabotage import print_table  # patches the engine: only where that is wanted

        return print_table(first=given.first, most=given.seeds, jobs=given.jobs)
    return _sweep(given.first, given.seeds, given.jobs)


def _look(seed: int) -> int:
    """Show one seed."""
    life = live(seed)
    if life.disk.has("r"):
        sys.stdout.write("\n".join(lines(life.disk.run("r").records)) + "\n")
    found = look_twice(seed)
    sys.stdout.write(f"seed {seed}: {found.status}, {_counted(found.counts)}\n")
    for one in found.violations:
        sys.stdout.write(f"  {one}\n")
    return 1 if found.violations else 0


def _sweep(first: int, count: int, jobs: int) -> int:
    shown = 0
    result = Sweep()
    for result in sweep(first, count, jobs):
        for found in result.failing[shown:]:
            shown += 1
            _show(found, whole=shown <= SHOWN)
        sys.stdout.write(f"{result.seeds:5} of {count} seeds, {len(result.failing)} failing, {result.seconds:.0f} s\n")
        sys.stdout.flush()
    sys.stdout.write(f"each seed lived twice; {_counted(dict(result.counts))}\n")
    sys.stdout.write(f"events: {', '.join(f'{number} {kind}' for kind, number in result.kinds.most_common())}\n")
    sys.stdout.write(f"runs ended: {_counted(dict(result.statuses))}\n")
    return 1 if result.failing or result.seeds != count else 0


def _show(found: Found, *, whole: bool) -> None:
    sys.stdout.write(f"seed {found.seed} breaks a law; to see it again: make sim SEED={found.seed}\n")
    for one in found.violations[:3]:
        sys.stdout.write(f"  {one}\n")
    if whole:
        sys.stdout.writelines(f"    {line}\n" for line in found.trace)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(counts.items()) if number)


if __name__ == "__main__":
    sys.exit(main())

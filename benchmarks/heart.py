"""What one decision costs: the heart alone, fed facts that were written down before.

A layered plan, ten steps wide, in four sizes. The facts of a first pass are fed to a second machine; what is timed is
every fact but the first, nearly all of them `AttemptSucceeded`, each with the start of what it makes ready.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from benchmarks.plans import Needs, fan_out, layered, plan_of
from benchmarks.rows import Budget, Row
from benchmarks.timing import Scale, cpu_s, timed
from planloom.core.commands import GoOn, RunStep
from planloom.core.events import AttemptSucceeded, Fact, RunStarted, ToolFacts, WentOn
from planloom.core.machine import RunMachine
from planloom.plan.model import Plan
from planloom.plan.policy import Effects

WIDTH = 10
SIZES = (100, 1_000, 20_000, 100_000)
AT = 1_760_000_000.0
DECISIONS = 20_000
"""A small plan is run again until it has come to about so many, at most `PASSES` times."""
PASSES = 40


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return µs per decision by size, and how flat they are."""
    sizes = SIZES[:2] if scale.tiny else SIZES
    found = {size: decision_us(layered(size // WIDTH, WIDTH), scale) for size in sizes}
    rows = [
        Row(f"a decision in a plan of {size:,}", "µs", took, budget=Budget(None, 5.0, of="ours"))
        for size, took in found.items()
    ]
    first, last = sizes[0], sizes[-1]
    flat = Budget(1.3, why="what a decision touches no longer fits the processor's cache")
    what = f"a decision: {last:,} beside {first:,} steps"
    rows.append(Row(what, "µs", found[last], found[first], f"the same of {first:,}", flat))
    wide = sizes[1]
    rows.append(Row(f"a decision in a fan-out of {wide:,}", "µs", decision_us(fan_out(wide), scale)))
    return rows


def decision_us(needs: Needs, scale: Scale) -> float:
    """Return the microseconds that one fact takes, at best."""
    plan = plan_of(needs, tool="t")
    first, *rest = facts_of(plan)
    passes = scale.rounds(max(3, min(PASSES, DECISIONS // len(rest))))
    best = float("inf")
    for _ in range(passes):
        machine = RunMachine("run")
        machine.handle(first)
        handle = machine.handle
        with timed(cpu_s) as took:
            for fact in rest:
                handle(fact)
        assert machine.ended
        best = min(best, took.seconds)
    return best * 1e6 / len(rest)


def facts_of(plan: Plan) -> list[Fact]:
    """Return every fact of a run in which all goes well, in order."""
    machine = RunMachine("run")
    fact: Fact = RunStarted(plan, {}, AT, tools={"t": ToolFacts("digest", effects=Effects.NONE)})
    facts: list[Fact] = []
    to_do: deque[RunStep | GoOn] = deque()
    while not machine.ended:
        facts.append(fact)
        to_do.extend(command for command in machine.handle(fact).commands if isinstance(command, RunStep | GoOn))
        if to_do:
            command = to_do.popleft()
            if isinstance(command, RunStep):
                x = command.args.get("x", 0)
                fact = AttemptSucceeded(command.key, command.attempt, command.epoch, x + 1, AT, AT)
            else:
                fact = WentOn(AT)
    return facts

"""Random plans, cut at random writes: the restart comes to what the undisturbed run came to.

PLANLOOM_SEED chooses the plans, PLANLOOM_KILLS how many; a failure names the seed of its plan.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from typing import Any

import pytest

from planloom import Engine, MemoryJournal
from planloom.core.result import ENDED, RunResult
from planloom.observe.looks import every_step
from planloom.plan.load import load_plan
from planloom.testing.clock import ManualClock
from planloom.testing.crash import Spoil
from planloom.testing.sweep.findings import findings_of
from planloom.testing.sweep.loop import run_patiently
from planloom.testing.sweep.point import Point, PointMoment, text_of
from planloom.testing.sweep.story import CrashWorld, Staging, Story, told
from tests.crash.answers import TOOLS
from tests.crash.looking import look
from tests.crash.shape import DOWN_S
from tests.crash.shapes import World, bounded, driven
from tests.crash.test_cancel_anywhere import CancelsAt, cancel
from tests.crash.test_cancel_anywhere import look as look_at_the_stop

SEED = int(os.environ.get("PLANLOOM_SEED", "1"))
PLANS = int(os.environ.get("PLANLOOM_KILLS", "20")) * 4
JOINS = ("all_success", "none_failed_min_one_success", "all_done", "none_failed", "always")


def random_plan(chance: random.Random, *, depth: int = 0) -> dict[str, Any]:
    """Return a plan whose result does not depend on which of two steps is faster."""
    steps: list[dict[str, Any]] = []
    for n in range(chance.randint(1, 7 if depth == 0 else 3)):
        above = [step["id"] for step in steps]
        step = one_step(chance, f"s{n}", depth)
        wanted = chance.sample(above, min(len(above), chance.randint(0, 3)))
        step["needs"] = [
            {"step": name, "when": chance.choice(("true", "false"))} if chance.random() < 0.15 else name
            for name in wanted
        ]
        if chance.random() < 0.3:
            step["join"] = chance.choice(JOINS)
        if chance.random() < 0.15:
            step["when"] = chance.choice(("true", "false", "inputs.nothing"))
        if chance.random() < 0.3:
            step["on_error"] = chance.choice(("skip", "continue", "fail"))
        steps.append(step)
    return {"planloom": 1, "name": "random", "fail_fast": False, "steps": steps}


def one_step(chance: random.Random, name: str, depth: int) -> dict[str, Any]:
    kind = chance.random()
    if kind < 0.08:
        return {"id": name, "wait": chance.choice((0, 5, 7_200))}
    if kind < 0.16:
        return {"id": name, "approve": "Go on?"}
    if kind < 0.26 and depth < 2:
        step: dict[str, Any] = {"id": name, "plan": random_plan(chance, depth=depth + 1)}
    else:
        tool = chance.choice(("pure", "put", "pay", "pay", "picky", "flaky", "not_yet"))
        step = {"id": name, "tool": tool, "with": {"n": chance.randint(1, 3)}}
        if tool in ("flaky", "not_yet") or chance.random() < 0.2:
            step["retry"] = {"max_attempts": 9, "initial_delay": chance.choice((0, 3, 5_000))}
    if chance.random() < 0.25:
        step["for_each"] = list(range(chance.randint(0, 4)))
        step["on_item_error"] = "collect"
        if chance.random() < 0.5:
            step["max_parallel"] = chance.randint(1, 2)
    return step


def random_cuts(chance: random.Random, whole: Story) -> tuple[Point, ...]:
    """Return up to three points to stop at, in one life after the other."""
    reached = whole.lives[0].reached
    kinds = sorted(reached)
    found = []
    for n in range(chance.randint(1, 3)):
        kind = chance.choice(kinds)
        moment: PointMoment = "before" if chance.random() < 0.5 else "after"
        found.append(Point(kind, chance.randint(1, max(1, reached[kind] // (1 + n))), moment))
    return tuple(found)


@pytest.mark.crash
def test_random_plans_survive_random_power_cuts() -> None:
    times = 0
    for number in range(PLANS):
        seed = SEED * 100_000 + number
        chance = random.Random(seed)
        plan, lag = load_plan(random_plan(chance)), chance.choice((0, 1, 5))
        staging = Staging(plan=plan, world=lambda: CrashWorld(tools=TOOLS), lag=lag, down_s=DOWN_S)
        whole = run_patiently(told(staging))
        for _ in range(6):
            cuts = random_cuts(chance, whole)
            story = run_patiently(told(staging, cuts, undisturbed=whole.result))
            found = findings_of(story, whole)
            assert found == [], f"seed {seed}, lag {lag}, {text_of(cuts)}: {found}"
            times += len(story.lives) - 1

    sys.stdout.write(f"{PLANS} random plans, {times} power cuts\n")
    assert times > PLANS


def with_limits(chance: random.Random, plan: dict[str, Any]) -> dict[str, Any]:
    plan["fail_fast"] = chance.random() < 0.7
    if chance.random() < 0.4:
        plan["limits"] = {
            "max_tool_calls": chance.randint(0, 12),
            "max_concurrent": chance.choice((None, 1, 2)),
            "timeout_seconds": chance.choice((None, 3, 4_000, 90_000)),
        }
    return plan


async def lived(seed: int) -> RunResult:
    """Live through up to three power cuts and perhaps a cancel, and look at what every run must keep to."""
    where, chance = f"seed {seed}", random.Random(seed)
    plan, lag = with_limits(chance, random_plan(chance)), chance.choice((0, 1, 5))
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    world.disk = disk
    cancel_at = chance.choice((None, None, chance.randint(1, 20)))
    result, lives = None, 0
    cancelling: asyncio.Task[None] | None = None
    while result is None:
        lives += 1
        at = chance.randint(1, 12) if lives < 4 and chance.random() < 0.7 else None
        journal = CancelsAt(disk, at=at, how=chance.choice((Spoil.BEFORE, Spoil.AFTER)), lag=lag)
        known = bool(await disk.runs())
        before, called = (await disk.read("r") if known else []), len(world.log)
        async with Engine(journal, tools=world.tools(), clock=clock) as engine:
            starting = asyncio.ensure_future(engine.resume("r") if known else engine.start(plan, run_id="r"))
            driving = asyncio.create_task(driven(starting, clock, world, until=journal.stopped))
            if cancel_at is not None:
                waiter = asyncio.create_task(journal.wait_for_write(cancel_at))
                await asyncio.wait({waiter, driving}, return_when=asyncio.FIRST_COMPLETED)
                waiter.cancel()
                cancelling = asyncio.create_task(cancel(asyncio.shield(starting)))
            result = await driving
            if cancelling is not None:
                cancelling.cancel()  # without power it is never taken
        clock.advance(chance.choice((0, 1, DOWN_S)))
    record = await disk.read("r")
    look(where, before, world, called, record)
    if "always" not in str(plan):
        look_at_the_stop(where, record)
    for step in every_step(result.steps):
        assert step.status in ENDED, f"{where}: {step.id} is {step.status}"
    most = plan.get("limits", {}).get("max_tool_calls")
    assert most is None or result.tool_calls <= most, where
    assert result.latency_ms >= 0, where
    return result


@pytest.mark.crash
def test_random_lives_keep_every_law() -> None:
    async def main() -> Counter[str]:
        results = [await lived(SEED * 100_000 + number) for number in range(PLANS * 5)]
        return Counter(result.status.value for result in results)

    ended = bounded(main())

    sys.stdout.write(f"{PLANS * 5} random lives: {dict(ended)}\n")
    assert len(ended) >= 4


@pytest.mark.parametrize("seed", [1_097, 100_003])
def test_lives_that_once_broke_a_law_keep_them_all(seed: int) -> None:
    assert bounded(lived(seed)).ended_at is not None

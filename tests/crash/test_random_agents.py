"""Agents that do anything, cut anywhere: the restart comes to what the undisturbed agent came to, to the last byte.

PLANLOOM_SEED chooses the agents, PLANLOOM_KILLS how many; a failure names the seed.
"""

from __future__ import annotations

import os
import random
import sys
from typing import Any

import pytest

from planloom.testing.crash import Spoil
from tests.crash.inner_shapes import agent
from tests.crash.shapes import bounded
from tests.crash.test_power_cuts_inside import lived, whole

SEED = int(os.environ.get("PLANLOOM_SEED", "1"))
AGENTS = int(os.environ.get("PLANLOOM_KILLS", "20"))
DOES = ("pure", "put", "pay", "pay", "lose", "spoil", "later", "nothing", "mumble", "garble", "shaky", "think")


def random_prompt(chance: random.Random) -> str:
    """Return what an agent is to do: rounds of tasks, the same ones again now and then."""
    rounds = [
        ", ".join(f"{chance.choice(DOES)} {chance.randint(1, 3)}" for _ in range(chance.randint(1, 4)))
        for _ in range(chance.randint(1, 3))
    ]
    return " | ".join(rounds)


def random_agents(chance: random.Random) -> dict[str, Any]:
    steps = [
        agent(
            f"do{n}",
            # No two agents are asked the same, so that each one's questions can be counted.
            f"{random_prompt(chance)}, think 1{n}",
            retry={"max_attempts": 9, "initial_delay": chance.choice((0, 5))},
            **({"needs": [f"do{n - 1}"]} if n and chance.random() < 0.5 else {}),
        )
        for n in range(chance.randint(1, 3))
    ]
    return {"planloom": 1, "name": "random", "fail_fast": False, "steps": steps}


async def one(seed: int) -> tuple[int, int]:
    """Cut one plan of random agents a few times; return how often, and how many outcomes nobody knew."""
    chance = random.Random(seed)
    plan, lag = random_agents(chance), chance.choice((0, 1, 7))
    run = await whole(plan, lag)
    points = unknown = 0
    for _ in range(4):
        cuts = [
            (chance.randint(1, max(1, run.writes // (1 + n))), chance.choice((Spoil.BEFORE, Spoil.AFTER)))
            for n in range(chance.randint(1, 3))
        ]
        unknown += await lived(f"seed {seed}, lag {lag}, cuts {cuts}, {plan}", run, cuts)
        points += len(cuts)
    return points, unknown


@pytest.mark.crash
def test_random_agents_survive_random_power_cuts() -> None:
    async def main() -> tuple[int, int]:
        found = [await one(SEED * 100_000 + number) for number in range(AGENTS)]
        return sum(points for points, _ in found), sum(unknown for _, unknown in found)

    points, unknown = bounded(main())

    sys.stdout.write(f"{AGENTS} plans of random agents, {points} power cuts, {unknown} outcomes unknown\n")
    assert points >= AGENTS * 4
    assert unknown > 0


@pytest.mark.parametrize("seed", [100_001, 100_002])
def test_agents_of_a_few_seeds_survive_them_in_every_test_run(seed: int) -> None:
    points, _ = bounded(one(seed))

    assert points >= 4

"""Agents that do anything, cut anywhere: the restart comes to what the undisturbed agent came to, to the last byte.

PLANLOOM_SEED chooses the agents, PLANLOOM_KILLS how many; a failure names the seed.
"""

from __future__ import annotations

import os
import random
import sys
from typing import Any

import pytest

from planloom.testing.sweep.findings import findings_of, unknown_outcomes
from planloom.testing.sweep.loop import run_patiently
from planloom.testing.sweep.point import text_of
from planloom.testing.sweep.story import told
from tests.crash.inner_shapes import agent
from tests.crash.inner_sweep import inner_staging, keeps_inner_laws
from tests.crash.test_random_plans import random_cuts

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


def one(seed: int) -> tuple[int, int]:
    """Cut one plan of random agents a few times; return how often, and how many outcomes nobody knew."""
    chance = random.Random(seed)
    staging = inner_staging(random_agents(chance), chance.choice((0, 1, 7)))
    whole = run_patiently(told(staging))
    points = unknown = 0
    for _ in range(4):
        cuts = random_cuts(chance, whole)
        story = run_patiently(told(staging, cuts, undisturbed=whole.result))
        found = [*findings_of(story, whole), *keeps_inner_laws(story, whole)]
        assert found == [], f"seed {seed}, {text_of(cuts)}: {found}"
        points += len(story.lives) - 1
        unknown += unknown_outcomes(story)
    return points, unknown


@pytest.mark.crash
def test_random_agents_survive_random_power_cuts() -> None:
    found = [one(SEED * 100_000 + number) for number in range(AGENTS)]
    points, unknown = sum(points for points, _ in found), sum(unknown for _, unknown in found)

    sys.stdout.write(f"{AGENTS} plans of random agents, {points} power cuts, {unknown} outcomes unknown\n")
    assert points >= AGENTS * 4
    assert unknown > 0


@pytest.mark.parametrize("seed", [100_001, 100_002])
def test_agents_of_a_few_seeds_survive_them_in_every_test_run(seed: int) -> None:
    points, _ = one(seed)

    assert points >= 4

"""A few lives in every test run; `make sim` lives 2,000 of them, and any others that one asks for.

Rule 1: a seed that once broke a law stays here, named for what was wrong.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.dice import Dice
from tests.simulation.life import live
from tests.simulation.sabotage import caught
from tests.simulation.sweep import look_twice, sweep
from tests.simulation.trace import SHORT, short

QUICK = ("early output commit", "join on half its inputs", "one slot too many")
"""Bugs that show in one of the first lives."""


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 5, 10])
def test_lives_of_a_few_seeds_keep_every_law_and_can_be_lived_again(first: int) -> None:
    for seed in range(first, first + 5):
        found = look_twice(seed)

        assert found.violations == [], f"seed {seed}: make sim SEED={seed}"
        assert found.counts["events"] > 1


@pytest.mark.slow
def test_what_a_seed_comes_to_depends_neither_on_the_process_nor_on_how_it_hashes() -> None:
    results = list(sweep(40, 4, jobs=2))

    assert [found.violations for found in results[-1].failing] == []
    assert results[-1].seeds == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_bug_put_into_the_engine_is_found_within_a_few_lives(name: str) -> None:
    found = caught(name, most=12)

    assert found.seed is not None, BUGS[name].what
    assert found.law


def test_a_bug_is_taken_out_again() -> None:
    for bug in BUGS.values():
        with bug.put():
            pass

    assert look_twice(1).violations == []


def test_chance_depends_on_what_it_is_for_and_on_nothing_else() -> None:
    dice = Dice(1)

    first = dice.of("a", 1).random()
    dice.of("b").random()

    assert dice.of("a", 1).random() == first
    assert Dice(2).of("a", 1).random() != first
    assert dice.share("a") == dice.share("a") != dice.share("b")


def test_a_long_trace_is_cut_in_the_middle() -> None:
    life = next(life for life in map(live, range(50)) if len(life.disk.run("r").records) > SHORT)

    told = short(life.disk.run("r").records)

    assert len(told) == SHORT + 1
    assert "RunStarted" in told[0]
    assert "RunFinished" in told[-1]


@pytest.mark.slow
def test_one_seed_is_shown_with_its_whole_record(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", "1"], cwd=root, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "RunFinished" in done.stdout
    assert "seed 1:" in done.stdout

"""A70: every block of code of the founding documents runs, or is listed here with the reason why it does not.

Rule 1: `test_seed_000` to `test_seed_004` run them; this module sees that none is left out.
"""

from __future__ import annotations

import asyncio
import inspect

import pytest

from planloom import execute_plan, load_plan, parse_plan
from planloom.tools.declare import tool
from tests.acceptance import test_seed_000, test_seed_001, test_seed_003, test_seed_004
from tests.acceptance.founding import FOLDER, blocks, parameters, plain, program, run

DECIDED_OTHERWISE = {("003", 5), ("003", 6)}
"""Blocks that call an agent's sync `run` inside a running loop, which is a clear error here (A39)."""
SIGNATURES = {
    0: "from orchestrator import execute_plan",
    1: "async def execute_plan(plan, worker=None, context=None, limits=None, track_cost=True): ...",
    2: '{"result": 1, "steps": [], "cost": 0.0, "latency_ms": 1, "steps_completed": 1, "parallel_efficiency": 1.0}',
}
"""Blocks of document 001 that are no programs."""
RUN = {
    "000": test_seed_000.PROGRAMS,
    "001": {**SIGNATURES, **test_seed_001.PROGRAMS},
    "003": test_seed_003.OURS,
    "004": test_seed_004.OURS,
}
LETTERED = "a. Get all contacts\nb. Compose Email message\nc. Send emails (requires steps a and b)\n"

there = pytest.mark.skipif(not FOLDER.is_dir(), reason="the founding documents are not beside this repository")


@there
@pytest.mark.parametrize("number", ["000", "001", "002", "003", "004"])
def test_a70_no_block_of_a_document_is_left_out(number: str) -> None:
    assert blocks(number).keys() == RUN.get(number, {}).keys()


@there
@pytest.mark.parametrize(
    ("number", "programs"), [("000", test_seed_000.PROGRAMS), ("001", test_seed_001.PROGRAMS)], ids=["000", "001"]
)
def test_a70_programs_that_are_kept_here_are_those_of_the_page(number: str, programs: dict[int, str]) -> None:
    page = blocks(number)

    for place, text in programs.items():
        assert plain(text) == plain(page[place])


def test_a70_the_list_of_what_was_decided_otherwise_names_blocks_that_there_are() -> None:
    assert all(place in RUN[number] for number, place in DECIDED_OTHERWISE)


# --- document 001: what is no program -----------------------------------------------------------


def test_a70_execute_plan_is_imported_and_called_as_on_the_page() -> None:
    names = run(program("001", 0, SIGNATURES))
    wanted, is_async = parameters(program("001", 1, SIGNATURES), "execute_plan")

    assert names["execute_plan"] is execute_plan
    assert list(inspect.signature(execute_plan).parameters)[: len(wanted)] == wanted
    assert inspect.iscoroutinefunction(execute_plan) is is_async


def test_a70_a_result_has_every_key_of_the_page() -> None:
    page = program("001", 2, SIGNATURES)
    keys = [line.split('"')[1] for line in page.replace(", ", ",\n").splitlines() if '"' in line]

    @tool(effects="none", name="seeds.one")
    def one() -> int:
        return 1

    result = asyncio.run(execute_plan(load_plan({"planloom": 1, "steps": [{"id": "a", "tool": "seeds.one"}]})))

    assert keys == ["result", "steps", "cost", "latency_ms", "steps_completed", "parallel_efficiency"]
    assert set(keys) <= result.keys()


# --- document 002: lines of English -------------------------------------------------------------


def test_a70_the_lettered_plan_of_the_page_is_a_plan() -> None:
    found = blocks("002", "plan")
    plan = parse_plan(next(iter(found.values())) if found else LETTERED)

    assert [step.id for step in plan.steps] == ["a", "b", "c"]
    assert [step.needs for step in plan.steps] == [(), (), ("a", "b")]

"""Running ahead on drafts: the same results and effects as without, never later; see speculating.py."""

from __future__ import annotations

from random import Random
from statistics import fmean
from typing import Any

import pytest

from planloom.core.commands import RunStep
from planloom.core.events import AttemptSucceeded, RunStarted, SpeculationSettled, StepDispatched, StepSpeculated
from planloom.core.machine import RunMachine
from planloom.core.prices import ModelFacts, ModelPrice
from planloom.core.result import RunStatus, Usage
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, ResourceLimits
from planloom.ports import Recorded
from planloom.runtime.replay import diverges
from tests.core.speculating import (
    LINGERS_S,
    Simulated,
    World,
    chain,
    is_ahead,
    random_plan,
    step_of,
    without_speculation,
)

PLANS = 1_000
PARTS = 8
"""The thousand plans are walked in so many tests."""
SLACK_S = 1e-9
"""Sums of seconds are floats."""


def world_of(seed: int) -> World:
    return World(seed, p=Random(seed).choice([0.0, 0.5, 0.7, 0.9, 1.0]))


def both(seed: int, **told: Any) -> tuple[Simulated, Simulated]:
    """Return the run of a random plan without speculation, and with it."""
    document, world = random_plan(seed), world_of(seed)
    return Simulated(without_speculation(document), world), Simulated(document, world, **told)


def untimed(document: dict[str, Any]) -> dict[str, Any]:
    """Return the plan without what ends otherwise if an engine dies on the way: it takes time, and items end it."""
    steps = [
        {name: value for name, value in step.items() if name not in ("timeout_seconds", "for_each")}
        for step in document["steps"]
    ]
    return document | {"steps": steps}


# --- 1,000 plans -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_random_plans_come_to_the_same_with_speculation_and_never_later(part: int) -> None:
    for seed in range(part, PLANS, PARTS):
        plain, ahead = both(seed)
        try:
            plain.check()
            ahead.check()
            assert ahead.ends() == plain.ends()
            assert (ahead.result.status, ahead.result.output) == (plain.result.status, plain.result.output)
            assert sorted(ahead.effects) == sorted(plain.effects)
            assert ahead.values_on_record() <= plain.values_on_record()
            assert ahead.done_s <= plain.done_s + SLACK_S, (ahead.done_s, plain.done_s)
            assert ahead.finished_s <= plain.finished_s + LINGERS_S + SLACK_S
            assert all(one.effects is Effects.NONE and one.step.tool in (None, "t") for one in _ran_ahead(ahead))
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_run_cancelled_at_any_time_did_nothing_twice_and_nothing_else(part: int) -> None:
    for seed in range(part, PLANS, 4 * PARTS):
        plain, whole = both(seed)
        cancel_at = Random(seed).uniform(0.0, whole.done_s)
        _, ahead = both(seed, cancel_at=cancel_at)
        try:
            ahead.check()
            assert ahead.result.status in (RunStatus.CANCELLED, whole.result.status)
            assert set(ahead.effects) <= set(plain.effects)
            assert ahead.values_on_record() <= plain.values_on_record()
            assert ahead.finished_s <= cancel_at + LINGERS_S + SLACK_S
            done = {key: end for key, end in ahead.ends().items() if end[0] == "completed"}
            assert done == {key: plain.ends()[key] for key in done}
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_run_stopped_by_its_first_failure_did_nothing_that_it_would_not_have_done(part: int) -> None:
    for seed in range(part, PLANS, 4 * PARTS):
        document, world = random_plan(seed, timing_matters=True), world_of(seed)
        plain, ahead = Simulated(without_speculation(document), world), Simulated(document, world)
        all_of_it = Simulated(without_speculation(document) | {"fail_fast": False}, world)
        try:
            ahead.check()
            assert ahead.result.status is plain.result.status
            assert set(ahead.effects) <= set(all_of_it.effects)
            assert ahead.values_on_record() <= all_of_it.values_on_record()
            assert ahead.done_s <= plain.done_s + LINGERS_S + SLACK_S
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_run_whose_engine_dies_comes_to_the_same_and_forgets_what_ran_ahead(part: int) -> None:
    for seed in range(part, PLANS, 4 * PARTS):
        document, world = untimed(random_plan(seed)), world_of(seed)
        plain = Simulated(without_speculation(document), world)
        ahead = Simulated(document, world, restart_at=Random(seed).uniform(0.0, plain.done_s))
        try:
            ahead.check()
            assert _without_errors(ahead) == _without_errors(plain)
            assert sorted(set(ahead.effects)) == sorted(set(plain.effects))
            assert ahead.values_on_record() <= plain.values_on_record()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_with_few_places_real_work_goes_first(part: int) -> None:
    for seed in range(part, PLANS, 4 * PARTS):
        document, world = random_plan(seed, contended=True), world_of(seed)
        limits = {"max_concurrent": Random(seed).randint(1, 4)}
        plain = Simulated(without_speculation(document), world, limits=limits)
        ahead = Simulated(document, world, limits=limits)
        try:
            ahead.check()
            assert ahead.ends() == plain.ends()
            assert sorted(ahead.effects) == sorted(plain.effects)
            assert ahead.peak <= limits["max_concurrent"]
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def _ran_ahead(run: Simulated) -> list[RunStep]:
    return [request for request in run.requests if is_ahead(request)]


def _without_errors(run: Simulated) -> dict[str, Any]:
    """Return how each step ended, but not why: what a person says of a lost attempt is only that it failed."""
    return {key: ("failed" if end[0] == "timed_out" else end[0], *end[1:3]) for key, end in run.ends().items()}


def test_the_random_plans_are_worth_walking() -> None:
    runs = [both(seed)[1] for seed in range(60)]

    outcomes = [event.outcome for run in runs for event in run.journal if isinstance(event, SpeculationSettled)]
    statuses = {end[0] for run in runs for end in run.ends().values()}

    assert {outcomes.count(name) > 20 for name in ("confirmed", "rolled_back", "spent")} == {True}
    assert statuses >= {"completed", "failed", "skipped", "timed_out"}
    assert sum(len(run.effects) for run in runs) > 60


# --- how much sooner, at what price ------------------------------------------------------------

TABLE = {
    (0.9, 1): (1.72, 1.05),
    (0.9, 2): (2.16, 1.11),
    (0.7, 1): (1.52, 1.17),
    (0.7, 2): (1.77, 1.34),
    (0.5, 1): (1.35, 1.30),
    (0.5, 2): (1.48, 1.61),
}
"""A chain of 8: share of right drafts and depth → speed-up and seconds of the own model, both beside no speculation."""


def chains(p: float, depth: int, count: int = 250) -> tuple[float, float]:
    """Return speed-up, and seconds that the own model was asked, beside no speculation."""
    document = chain(8, depth=depth)
    runs = [Simulated(document, World(seed, p, 1.0, 0.15, lost=0.0, failing=0.0)) for seed in range(count)]
    return 8.0 / fmean(run.done_s for run in runs), fmean(run.asked_s for run in runs) / 8.0


@pytest.mark.slow
@pytest.mark.parametrize(("p", "depth"), TABLE)
def test_a_chain_of_eight_is_as_much_sooner_and_as_dear_as_worked_out(p: float, depth: int) -> None:
    sooner, billed = chains(p, depth)

    assert sooner == pytest.approx(TABLE[p, depth][0], rel=0.1)
    assert billed == pytest.approx(TABLE[p, depth][1], rel=0.1)


@pytest.mark.slow
def test_nine_right_drafts_of_ten_halve_the_time_for_a_seventh_more() -> None:
    sooner, billed = chains(0.9, 2)

    assert sooner >= 2.0
    assert billed <= 1.15


# --- one at a time -----------------------------------------------------------------------------


def one(p: float, **told: Any) -> Simulated:
    return Simulated(chain(3, depth=2), World(1, p, 1.0, 0.15, lost=0.0, failing=0.0), **told)


def test_a_right_draft_lets_the_next_step_start_before_its_time() -> None:
    run = one(1.0)

    assert run.done_s == pytest.approx(1.3)
    assert run.result.status is RunStatus.SUCCESS
    run.check()


def test_a_wrong_draft_costs_no_time() -> None:
    run = one(0.0)

    assert run.done_s == pytest.approx(3.0)
    assert run.result.output == one(1.0).result.output
    run.check()


def test_every_attempt_on_record_is_under_its_steps_own_name_and_once() -> None:
    run = one(1.0)

    ended = [event.step for event in run.journal if isinstance(event, AttemptSucceeded)]

    assert sorted(ended) == ["c0", "c1", "c2"]


def test_the_last_step_is_not_drafted_because_nothing_could_run_ahead_of_it() -> None:
    run = one(1.0)

    assert [step_of(request) for request in run.requests if request.role == "draft"] == ["c0", "c1"]


def test_no_more_unconfirmed_steps_than_the_depth_are_run_ahead_on() -> None:
    run = Simulated(chain(8, depth=2), World(1, 1.0, 1.0, 0.15, lost=0.0, failing=0.0))

    assert max(len(event.on) for event in run.journal if isinstance(event, StepSpeculated)) == 2


def test_what_ran_ahead_on_a_step_that_itself_ran_ahead_is_kept_when_that_is_confirmed() -> None:
    document = chain(3, depth=2)
    for step in document["steps"][1:]:
        del step["speculate"], step["model"], step["prompt"]
        before = step["needs"][0]
        step |= {"tool": "t", "with": {"of": f"${{{{ steps.{before}.output }}}}"}}

    run = Simulated(document, World(1, p=1.0, draft_s=0.1, lost=0.0, failing=0.0))

    run.check()
    settled = [event for event in run.journal if isinstance(event, SpeculationSettled) and event.role == "ahead"]
    assert [(event.step, event.outcome) for event in settled] == [("c1", "confirmed"), ("c2", "confirmed")]


def test_after_drafts_that_were_mostly_wrong_nothing_runs_ahead() -> None:
    speculate = {"draft": "small", "policy": "compare", "latency_weight": 0.5}
    document = chain(3, depth=2)
    document["steps"] = [step | {"speculate": speculate} for step in document["steps"]]

    run = Simulated(document, World(1, 1.0, 1.0, 0.15), guesses={f"c{n}": [1, 9] for n in range(3)})

    assert not _ran_ahead(run)


def test_a_draft_that_comes_last_is_of_no_use_and_does_no_harm() -> None:
    run = Simulated(chain(3, depth=2), World(1, 1.0, 1.0, 1.5, lost=0.0, failing=0.0))

    assert run.done_s == pytest.approx(3.0)
    assert not [request for request in _ran_ahead(run) if request.role == ""]
    run.check()


def test_a_replay_makes_room_where_the_run_made_it() -> None:
    """What ran ahead made way for a step, and then the step was drafted anew: all in one turn, in this order."""
    price, draft = ModelPrice(1_000.0, 1_000.0), {"draft": "d", "policy": "compare"}
    models = {name: ModelFacts(f"test://{name}", price=price, max_tokens=20) for name in "md"}
    above = {"b": "a", "c": "b"}
    steps = [
        {"id": one, "model": "m", "prompt": f"${{{{ steps.{above[one]}.output }}}}" if one in above else "q"}
        for one in "abc"
    ]
    plan = Plan.from_dict({"steps": [step | {"speculate": draft} for step in steps]})
    machine, record, requests = RunMachine("run"), [], {}

    def hand(fact: Any) -> tuple[Any, ...]:
        turn = machine.handle(fact)
        for event, cause in zip(turn.events, turn.causes, strict=True):
            record.append(Recorded(len(record) + 1, cause, event))
        requests.update({command.key: command for command in turn.commands if isinstance(command, RunStep)})
        return turn.events

    def ok(key: str, output: str) -> tuple[Any, ...]:
        request = requests.pop(key)
        place = (key, request.attempt, request.epoch)
        return hand(AttemptSucceeded(*place, output, 0.0, 0.0, Usage(1, 1, 1), 0.002))

    hand(RunStarted(plan, {}, 0.0, ResourceLimits(max_total_cost_usd=0.28, timeout_seconds=None), models=models))
    ok("a!draft", "x")
    ok("b!draft", "y")
    events = ok("a", "z")

    made = [type(event) for event in events if getattr(event, "step", "") == "b"]
    assert made == [SpeculationSettled, SpeculationSettled, StepDispatched, StepSpeculated]
    assert isinstance(events[1], SpeculationSettled)
    assert events[1].step == "a"
    assert diverges("run", record) is None

"""Runs that agents share which keep nothing, over a bus that keeps no promise: they end as one engine's do."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from planloom.core.events import AttemptFailed, AttemptSucceeded
from planloom.plan.model import Plan
from planloom.plan.policy import FailureKind
from planloom.runtime.cluster.inputs import Verdict
from planloom.testing import check_history
from tests.core.driving import Drive
from tests.runtime.shared_world import TOOLS, Cluster, Faults, output_of

NO_FAULTS = Faults(0, 0, 0, 0, 0, 0, 0)


def any_plan(seed: int) -> Plan:
    """Return a plan whose end does not depend on what comes first."""
    dice = Random(seed)
    steps: list[dict[str, Any]] = []
    for place in range(dice.randint(1, 7)):
        step: dict[str, Any] = {"id": f"s{place}"} | any_work(dice)
        above = [one["id"] for one in steps if dice.random() < 0.4]
        if above:
            step["needs"] = above
            step["join"] = dice.choice(["all_success", "all_done", "none_failed"])
        step["on_error"] = dice.choice(["fail", "continue", "skip"])
        steps.append(step)
    return Plan.from_dict({"name": "any", "steps": steps, "fail_fast": False})


def any_work(dice: Random) -> dict[str, Any]:
    kind = dice.choice(["tool"] * 6 + ["map", "plan", "wait", "approve"])
    if kind == "wait":
        return {"wait": {"seconds": dice.randint(0, 3)}}
    if kind == "approve":
        return {"approve": {"message": "may it?"}}
    if kind == "plan":
        inner = [{"id": f"i{n}", "tool": dice.choice(list(TOOLS))} for n in range(2)]
        return {"plan": {"steps": inner, "fail_fast": False}}
    step: dict[str, Any] = {"tool": dice.choice(list(TOOLS))}
    if dice.random() < 0.2:
        step["with"] = {"fails": True}
    if dice.random() < 0.3:
        step["retry"] = {"max_attempts": 2, "jitter": False, "initial_delay": 1}
    return step | ({"for_each": [1, 2, 3], "on_item_error": "collect"} if kind == "map" else {})


def by_one_engine(plan: Plan) -> Drive:
    """Return the run of a plan by one heart, to which nothing happens."""
    drive = Drive(plan, tools=TOOLS, run_ahead=False)
    while not drive.machine.ended:
        if drive.under_way:
            key, request = next(iter(drive.under_way.items()))
            drive.after(0.1)
            drive.fail(key, types=("ValueError", "Exception")) if request.args.get("fails") else drive.ok(
                key, output_of(key)
            )
        elif drive.machine.state.timers:
            drive.fire(min(drive.machine.state.timers, key=drive.machine.state.timers.__getitem__))
        else:
            drive.approve(next(iter(drive.machine.state.blocked)))
    return drive


def told(machine: Any) -> dict[str, Any]:
    return {key: (node.status, node.output, node.reason) for key, node in machine.state.nodes.items()}


def killers(machine: Any) -> list[str]:
    """Return steps that were given up because too many workers died with them."""
    return [key for key, node in machine.state.nodes.items() if node.error_kind is FailureKind.LOST]


def check(cluster: Cluster, runs: dict[str, Plan]) -> None:
    """Assert what holds of every run that has ended."""
    once = {f"{run_id}/{key}" for run_id in runs for key, node in cluster.machine(run_id).state.nodes.items()
            if node.step.tool == "once"}  # fmt: skip
    for run_id in runs:
        record = cluster.record(run_id)
        accused = check_history(record, run_id=run_id)
        assert accused == [], [str(one) for one in accused]
        ends = [(one.event.step, one.event.attempt, one.event.epoch) for one in record
                if isinstance(one.event, AttemptSucceeded | AttemptFailed)]  # fmt: skip
        assert len(ends) == len(set(ends)), "an attempt has two outcomes"
        assert cluster.table.rows[run_id].work == {}
    twice = {key: times for key, times in cluster.effects.items() if key in once and times > 1}
    assert {key for key in twice if not _failed_by_itself(cluster, key)} == set()


def _failed_by_itself(cluster: Cluster, effect: str) -> bool:
    """Return whether a step that may be done once failed of itself: its plan has it tried again."""
    run_id, _, step = effect.partition("/")
    return any(isinstance(one.event, AttemptFailed) and one.event.step == step and one.event.kind == "error"
               for one in cluster.record(run_id))  # fmt: skip


@pytest.mark.parametrize("seed", range(30))
def test_runs_end_as_one_engine_ends_them_whatever_the_bus_and_the_agents_do(seed: int) -> None:
    cluster = Cluster(seed, Faults())
    cluster.table.again, cluster.table.unknown = 0.1, 0.05
    runs = {f"r{n}": any_plan(seed * 10 + n) for n in range(3)}
    for run_id, plan in runs.items():
        cluster.submit(run_id, plan)

    cluster.run()

    check(cluster, runs)
    for run_id, plan in runs.items():
        alone, shared = by_one_engine(plan).machine, cluster.machine(run_id)
        if not killers(shared):
            assert shared.state.status is alone.state.status
            assert told(shared) == told(alone)


@pytest.mark.parametrize("seed", range(8))
def test_where_nothing_goes_wrong_nothing_is_done_twice_or_refused(seed: int) -> None:
    cluster = Cluster(seed, NO_FAULTS)
    runs = {f"r{n}": any_plan(seed * 10 + n) for n in range(3)}
    for run_id, plan in runs.items():
        cluster.submit(run_id, plan)

    cluster.run()

    check(cluster, runs)
    assert set(cluster.verdicts) == {Verdict.TAKEN}
    assert cluster.crashes == 0

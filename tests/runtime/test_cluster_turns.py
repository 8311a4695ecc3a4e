"""Runs that agents share which keep nothing, over a bus that keeps no promise: they end as one engine's do."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from planloom.core import machine
from planloom.core.events import (
    ApprovalAnswered,
    AttemptFailed,
    AttemptSucceeded,
    CallEnded,
    CallStarted,
    CancelRequested,
    PauseRequested,
    RunResumed,
    RunStarted,
)
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, FailureKind
from planloom.runtime.cluster.inputs import Claimed, Due, Fate, PersonSaid, Stated, Submitted
from planloom.testing import check_history
from tests.core.driving import Drive
from tests.runtime.shared_world import TOOLS, Cluster, Faults, now, output_of

NO_FAULTS = Faults(0, 0, 0, 0, 0, 0, 0, skewed_s=0)


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


def told(heart: Any) -> dict[str, Any]:
    return {key: (node.status, node.output, node.reason) for key, node in heart.state.nodes.items()}


def killers(heart: Any) -> list[str]:
    """Return steps that were given up because too many workers died with them."""
    return [key for key, node in heart.state.nodes.items() if node.error_kind is FailureKind.LOST]


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
def test_a30_runs_end_as_one_engine_ends_them_whatever_the_bus_and_the_agents_do(seed: int) -> None:
    cluster = Cluster(seed, Faults())
    cluster.table.again, cluster.table.unknown, cluster.table.fails = 0.1, 0.05, 0.05
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


@pytest.mark.parametrize("seed", range(5))
def test_nothing_undecided_is_committed_however_short_the_turns_of_a_heart_are(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "DECISIONS_A_TURN", 2)
    cluster = Cluster(seed, Faults())
    runs = {f"r{n}": any_plan(seed * 10 + n) for n in range(3)}
    for run_id, plan in runs.items():
        cluster.submit(run_id, plan)

    cluster.run()

    check(cluster, runs)


@pytest.mark.parametrize("wrong", ["token", "capability", "run", "attempt"])
def test_who_does_not_have_an_attempt_says_nothing_of_it(wrong: str) -> None:
    cluster = Cluster(1, NO_FAULTS)
    heart = cluster.agents[0]
    started = RunStarted(Plan.from_dict({"steps": [{"id": "a", "tool": "once"}]}), {}, 1_000.0, tools=TOOLS)
    [work] = now(heart.take([Submitted("r", started)])).opened
    run_id, key = ("other" if wrong == "run" else "r"), (("a", 2, 1) if wrong == "attempt" else work.key)
    token = "x" if wrong == "token" else work.token
    told = AttemptSucceeded(*key, "forged", 1_000.0, 1_000.0)
    speaks_for = "mail" if wrong == "capability" else "main"

    said = now(heart.take([Stated(run_id, key, token, told, True, speaks_for)]))
    asked = now(heart.take([Claimed(run_id, key, token, "w", False, speaks_for)]))

    assert [one.fate for one in (*said.answers, *asked.answers)] == [Fate.STALE, Fate.STALE]
    assert cluster.machine("r").state.running.keys() == {"a"}
    assert cluster.table.rows["r"].work[work.key].claimed_by is None


def test_a_resumption_that_had_to_rest_is_heard_when_the_last_attempt_under_way_ends() -> None:
    cluster = Cluster(1, NO_FAULTS)
    heart = cluster.agents[0]
    plan = Plan.from_dict({"steps": [{"id": "a", "tool": "t"}, {"id": "b", "tool": "t", "needs": ["a"]}]})
    [work] = now(heart.take([Submitted("r", RunStarted(plan, {}, 1_000.0, tools=TOOLS))])).opened
    cluster.leave("r", PauseRequested("Ann", 0.0))
    cluster.leave("r", RunResumed(0, 0.0))
    rests = now(heart.take([Due("r")]))
    done = AttemptSucceeded(*work.key, 1, 1_000.0, 1_000.0)

    told = now(heart.take([Stated("r", work.key, work.token, done, True)]))

    assert rests.opened == []
    assert cluster.machine("r").state.paused is False
    assert [work.step for work in told.opened] == ["b"]
    assert cluster.table.rows["r"].posted == []


def test_a_cancel_does_not_wait_behind_a_resumption_that_rests() -> None:
    cluster = Cluster(1, NO_FAULTS)
    heart = cluster.agents[0]
    plan = Plan.from_dict({"steps": [{"id": "a", "tool": "t"}, {"id": "b", "tool": "t", "needs": ["a"]}]})
    now(heart.take([Submitted("r", RunStarted(plan, {}, 1_000.0, tools=TOOLS))]))
    for fact in (PauseRequested("Ann", 0.0), RunResumed(0, 0.0), CancelRequested("Ann", 0.0)):
        cluster.leave("r", fact)

    told = now(heart.take([Due("r")]))

    assert [work.step for work in told.stopped] == ["a"]
    assert cluster.machine("r").state.stopping is not None
    assert cluster.table.rows["r"].posted == []


def test_an_answer_that_does_not_fit_its_form_is_refused_and_the_step_goes_on_waiting() -> None:
    cluster = Cluster(1, NO_FAULTS)
    heart = cluster.agents[0]
    form = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    plan = Plan.from_dict({"steps": [{"id": "ask", "approve": {"message": "how many?", "form": form}}]})
    now(heart.take([Submitted("r", RunStarted(plan, {}, 1_000.0, tools=TOOLS, binds=True))]))
    [asked] = cluster.machine("r").state.blocked.values()
    binding = asked.asked.request.binding if asked.asked is not None else None

    answers = [ApprovalAnswered("ask", True, "Ann", 0.0, output, binding) for output in ({"n": "many"}, {"n": 3})]
    fates = [now(heart.take([PersonSaid("r", answer)])).answers[0].fate for answer in answers]

    assert fates == [Fate.REFUSED, Fate.TAKEN]
    assert cluster.machine("r").state.nodes["ask"].output == {"n": 3}


def test_a_run_that_cannot_be_written_stops_none_of_those_that_come_with_it() -> None:
    cluster = Cluster(1, NO_FAULTS)
    heart = cluster.agents[0]
    plan = Plan.from_dict({"steps": [{"id": "a", "tool": "t"}]})
    begins = [Submitted(name, RunStarted(plan, {}, 1_000.0, tools=TOOLS)) for name in ("one", "stuck", "other")]
    cluster.table.stuck = {"stuck"}

    done = now(heart.take(begins))

    assert [one.fate for one in done.answers] == [Fate.TAKEN, Fate.BROKEN, Fate.TAKEN]
    assert [work.run_id for work in done.opened] == ["one", "other"]
    assert set(done.news) == {"one", "other"}


def test_a_call_that_is_asked_for_twice_is_on_record_once_and_may_be_made() -> None:
    cluster = Cluster(1, NO_FAULTS)
    heart = cluster.agents[0]
    started = RunStarted(Plan.from_dict({"steps": [{"id": "a", "tool": "t"}]}), {}, 1_000.0, tools=TOOLS)
    [work] = now(heart.take([Submitted("r", started)])).opened
    begins = CallStarted(*work.key, "call 1", "pay", 1_000.0, Effects.ONCE)
    ends = CallEnded(*work.key, "call 1", "pay", "tool", "paid", 1_000.0, 1_000.0)

    asked = [now(heart.take([Stated("r", work.key, work.token, one, False)])) for one in (begins, begins, ends, ends)]

    assert [one.answers[0].fate for one in asked] == [Fate.TAKEN] * 4
    assert [type(one.event) for one in cluster.record("r")[2:]] == [CallStarted, CallEnded]


def test_an_answer_that_is_none_fails_the_attempt_and_not_the_agent() -> None:
    cluster = Cluster(1, NO_FAULTS)
    heart = cluster.agents[0]
    started = RunStarted(Plan.from_dict({"steps": [{"id": "a", "tool": "t"}]}), {}, 1_000.0, tools=TOOLS)
    [work] = now(heart.take([Submitted("r", started)])).opened
    of_another = AttemptSucceeded("b", 1, 1, "forged", 1_000.0, 1_000.0)

    said = now(heart.take([Stated("r", work.key, work.token, of_another, True)]))

    assert said.answers[0].fate is Fate.TAKEN
    assert cluster.machine("r").state.nodes["a"].error_kind is FailureKind.REFUSED


@pytest.mark.parametrize("seed", range(12))
def test_a_broker_that_loses_all_it_has_again_and_again_costs_no_run(seed: int) -> None:
    cluster = Cluster(seed, Faults(lost=0, worker_dies=0, wiped=0.1))
    runs = {f"r{n}": any_plan(seed * 10 + n) for n in range(3)}
    for run_id, plan in runs.items():
        cluster.submit(run_id, plan)

    cluster.run()

    check(cluster, runs)


@pytest.mark.parametrize("seed", range(20))
def test_people_may_cancel_pause_and_resume_at_any_moment(seed: int) -> None:
    cluster, dice = Cluster(seed, Faults()), Random(seed)
    runs = {f"r{n}": any_plan(seed * 10 + n) for n in range(4)}
    for run_id, plan in runs.items():
        cluster.submit(run_id, plan)
        at = dice.uniform(0, 20)
        cluster.later(at, lambda run_id=run_id: cluster.leave(run_id, PauseRequested("Ann", 0.0)))
        cluster.later(
            at + dice.uniform(0, 5), lambda run_id=run_id: cluster.bring(PersonSaid(run_id, RunResumed(0, 0.0)))
        )
        cluster.later(at + 60, lambda run_id=run_id: cluster.leave(run_id, RunResumed(0, 0.0)))
        if dice.random() < 0.5:
            later = dice.uniform(0, 20)
            cluster.later(later, lambda run_id=run_id: cluster.leave(run_id, CancelRequested("Ann", 0.0)))

    cluster.run()

    check(cluster, runs)


@pytest.mark.parametrize("seed", range(10))
def test_work_that_is_meant_for_certain_workers_is_made_once_all_the_same(seed: int) -> None:
    dice = Random(seed)
    labels = [{"prefer.region": "eu"}, {"require.region": "eu"}, {"require.region": "eu", "prefer.gpu": "yes"}]
    steps = [{"id": f"s{n}", "tool": dice.choice(list(TOOLS)), "labels": dice.choice(labels)} for n in range(6)]
    cluster = Cluster(seed, Faults(agent_crashes=0.05), places={"", "region=eu"} if seed % 2 else {""})
    runs = {"r": Plan.from_dict({"name": "placed", "steps": steps, "fail_fast": False})}
    cluster.submit("r", runs["r"])

    cluster.run()

    check(cluster, runs)
    for node in cluster.machine("r").state.nodes.values():
        unschedulable = "cannot be scheduled" in (node.error or "")
        requires = "require.region" in node.step.labels
        assert not unschedulable or requires
        assert not (seed % 2 == 0 and requires) or unschedulable


@pytest.mark.parametrize("seed", range(8))
def test_where_nothing_goes_wrong_nothing_is_done_twice_or_refused(seed: int) -> None:
    cluster = Cluster(seed, NO_FAULTS)
    runs = {f"r{n}": any_plan(seed * 10 + n) for n in range(3)}
    for run_id, plan in runs.items():
        cluster.submit(run_id, plan)

    cluster.run()

    check(cluster, runs)
    assert set(cluster.fates) == {Fate.TAKEN}
    assert cluster.crashes == 0

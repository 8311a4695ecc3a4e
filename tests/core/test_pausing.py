"""Paused runs: what is under way ends, nothing new starts, and a resume goes on."""

from __future__ import annotations

from planloom.core.events import AttemptSucceeded, PauseRequested, RunResumed, RunStarted, StepDispatched
from planloom.core.machine import RunMachine
from planloom.core.result import RunStatus
from tests.core.driving import Drive, plan, tool


def pause(drive: Drive) -> None:
    drive.hand(PauseRequested("Ann", drive.now))


def test_a_paused_run_lets_its_steps_end_and_starts_no_other() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))

    pause(drive)
    assert not drive.machine.waits_for_person
    drive.ok("a")

    assert drive.under_way == {}
    assert drive.machine.waits_for_person
    assert drive.status is RunStatus.WAITING


def test_a_paused_run_rests_although_nothing_was_said_of_a_draft_that_has_answered() -> None:
    asks = {"model": "big", "prompt": "p"}
    speculate = {"draft": "small", "policy": "compare", "latency_weight": 1.0}
    machine = RunMachine("run")
    machine.handle(
        RunStarted(plan({"id": "a", "speculate": speculate} | asks, {"id": "b", "needs": ["a"]} | asks), {}, 0.0)
    )
    machine.handle(PauseRequested("Ann", 0.0))
    machine.handle(AttemptSucceeded("a!draft", 1, 1, "a guess", 0.0, 0.0))
    assert not machine.waits_for_person

    machine.handle(AttemptSucceeded("a", 1, 1, "another answer", 0.0, 0.0))

    assert machine.under_way == []
    assert machine.waits_for_person
    turn = machine.handle(RunResumed(2, 0.0))
    assert turn.events[-1] == StepDispatched("b", 1, 2, 0.0)


def test_a_resumed_run_goes_on_where_it_rested() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))
    pause(drive)
    drive.ok("a", 1)

    drive.restart()

    assert drive.running == ["b"]
    assert drive.under_way["b"].attempt == 1
    drive.ok("b", 2)
    assert drive.status is RunStatus.SUCCESS
    drive.assert_replays()


def test_a_second_pause_says_nothing_new() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))
    pause(drive)

    turn = drive.hand(PauseRequested("Bob", drive.now))

    assert turn.events == ()


def test_a_paused_run_can_be_cancelled() -> None:
    drive = Drive(plan(tool("a"), tool("b", "a")))
    pause(drive)
    drive.ok("a")

    drive.cancel()

    assert drive.status is RunStatus.CANCELLED


def test_a_wait_before_a_retry_that_is_over_in_a_pause_starts_nothing() -> None:
    drive = Drive(plan(tool("a", retry={"max_attempts": 2, "initial_delay": 1, "jitter": False})))
    pause(drive)
    drive.fail("a")
    drive.fire("a")

    assert drive.under_way == {}

    drive.restart()
    assert drive.under_way["a"].attempt == 2

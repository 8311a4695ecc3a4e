from __future__ import annotations

import io
from datetime import datetime

import pytest

from planloom.cli.progress import Lines
from planloom.core.events import (
    ApprovalRequested,
    AttemptFailed,
    AttemptSucceeded,
    AttemptWaiting,
    CancelRequested,
    Event,
    OutcomeUnknown,
    OutputStreamed,
    ReplanRequested,
    RetryScheduled,
    RunStarted,
    RunStopping,
    StepDispatched,
    StepExpanded,
    StepFailed,
    StepReplanned,
    StepSkipped,
    StepSucceeded,
)
from planloom.core.result import RunStatus, SkipReason, StepStatus
from planloom.plan.model import Plan, Step
from planloom.plan.policy import FailureKind

NOON = 1_760_000_000.0


def failed(attempt: int, at: float) -> AttemptFailed:
    return AttemptFailed("a", attempt, 1, FailureKind.ERROR, "KeyError: 'x'", started_at=at - 1, at=at)


def told(*events: Event) -> list[str]:
    """Return the lines, without the time of day that each begins with."""
    lines: list[str] = []
    progress = Lines(lines.append)
    for event in events:
        progress.take(event)
    assert all(line[2] == line[5] == ":" and line[8] == " " for line in lines)
    return [line[9:] for line in lines]


def test_a_completed_step_says_how_long_it_took_what_it_cost_and_which_attempt_it_was() -> None:
    succeeded = AttemptSucceeded("a", 2, 1, None, started_at=NOON, at=NOON + 0.032, cost_usd=0.5)

    assert told(StepDispatched("a", 2, 1, NOON), succeeded) == ["a completed 32 ms, $0.50, attempt 2"]


def test_a_failed_attempt_is_told_with_the_wait_before_the_next() -> None:
    retry = RetryScheduled("a", 2, due_at=NOON + 3, at=NOON + 1)

    assert told(failed(1, NOON + 1), retry) == ["a attempt 1 failed: KeyError: 'x'; again in 2.00 s"]


def test_a_step_that_is_done_by_another_plan_says_so_and_is_complete_when_that_is() -> None:
    events = [
        StepDispatched("a", 1, 1, NOON),
        failed(1, NOON + 1),
        ReplanRequested("a", 2, NOON + 1),
        StepDispatched("a", 2, 1, NOON + 1),
        AttemptSucceeded("a", 2, 1, {}, started_at=NOON + 1, at=NOON + 2),
        StepReplanned("a", Plan(steps=(Step(id="x", tool="t"), Step(id="y", tool="t"))), {}, NOON + 2),
        StepSucceeded("a", 1, NOON + 5),
    ]

    assert told(*events) == [
        "a attempt 1 failed: KeyError: 'x'; asks for another plan",
        "a is done by another plan of 2 steps",
        "a completed 5.00 s",
    ]


def test_a_step_that_fails_for_good_is_told_once() -> None:
    ended = StepFailed("a", StepStatus.TIMED_OUT, FailureKind.TIMEOUT, "30 s passed", NOON)

    assert told(failed(1, NOON), ended) == ["a timed out: 30 s passed"]


def test_a_wait_for_a_rate_is_told_when_it_begins_and_pieces_of_an_answer_are_not() -> None:
    begun = AttemptWaiting("a", 1, 1, NOON, "rate", NOON + 61)
    over = AttemptWaiting("a", 1, 1, NOON + 61)
    until = f"{datetime.fromtimestamp(NOON + 61).astimezone():%H:%M:%S}"

    assert told(begun, over, OutputStreamed("a", 1, 1, "\x1b[31mpiece", NOON + 62)) == [
        f"a waiting: rate until {until}"
    ]


def test_items_are_summed_up_every_five_seconds_and_when_the_map_ends() -> None:
    items = [
        AttemptSucceeded(f"each[{number}]", 1, 1, None, started_at=NOON, at=NOON + number * 2) for number in range(4)
    ]

    lines = told(StepExpanded("each", [1, 2, 3, 4], NOON), *items, StepSucceeded("each", [], NOON + 7))

    assert lines == ["each 4 items", "each 4 of 4 items done", "each completed 7.00 s, 4 items"]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (StepSkipped("a", SkipReason.CONDITION_FALSE, NOON, "1 > 2"), "a skipped: condition false (1 > 2)"),
        (StepSucceeded("a", 1, NOON, reused=True), "a completed reused"),
        (ApprovalRequested("a", "Fine?", NOON), "a waits for approval: Fine?"),
        (OutcomeUnknown("a", 1, NOON), "a outcome unknown: attempt 1 was under way when it ended"),
        (CancelRequested("ann", NOON, "too late"), "cancelled by ann: too late"),
        (RunStopping(RunStatus.FAILED, NOON, "a"), "stopping: step a failed"),
        (RunStopping(RunStatus.LIMIT_EXCEEDED, NOON, "the run's time is over"), "stopping: the run's time is over"),
        (StepFailed("\x1b[31m", StepStatus.FAILED, FailureKind.ERROR, "\x07", NOON), "\\x1b[31m failed: \\x07"),
    ],
)
def test_what_else_happens_is_told_in_a_line(event: Event, line: str) -> None:
    assert told(event) == [line]


def test_the_table_shows_every_step_its_items_and_its_last_trouble() -> None:
    live = pytest.importorskip("planloom.cli.live", reason="not installed: rich")
    stream = io.StringIO()
    table = live.LiveTable(stream, ascii_only=False)
    plan = Plan(steps=(Step(id="a", tool="t"), Step(id="each", tool="t", for_each=[1, 2]), Step(id="later", tool="t")))

    table.begin()
    for event in (
        RunStarted(plan, {}, NOON),
        StepDispatched("a", 1, 1, NOON),
        failed(1, NOON + 1),
        RetryScheduled("a", 2, NOON + 3, NOON + 1),
        StepExpanded("each", [1, 2], NOON),
        AttemptSucceeded("each[0]", 1, 1, None, started_at=NOON, at=NOON + 1),
    ):
        table.take(event)
    table.end()

    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert lines[0].startswith("◌ a ready attempt 1 failed: KeyError: 'x'")
    assert " each running " in lines[1]
    assert lines[1].endswith(" 1 of 2")
    assert lines[2].startswith("○ later pending")
    assert lines[3] == "3 steps: 1 pending, 1 ready, 1 running"


def test_the_table_notes_what_an_attempt_waits_for_until_it_goes_on() -> None:
    live = pytest.importorskip("planloom.cli.live", reason="not installed: rich")
    table = live.LiveTable(io.StringIO(), ascii_only=False)
    begun = AttemptWaiting("a", 2, 1, NOON, "rate")

    table.take(StepDispatched("a", 2, 1, NOON))
    table.take(begun)
    during = table._lines["a"].note
    table.take(AttemptWaiting("a", 2, 1, NOON + 1))

    assert (during, table._lines["a"].note) == ("waiting: rate", "attempt 2")

"""No honest record is accused, and no record at all is too odd to be judged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planloom.core.events import FACT_TYPES, AnswerRefused, ResultRefused
from planloom.ports import Recorded
from planloom.testing import LoggedCall, Violation, check_history
from planloom.testing.history import check
from planloom.testing.history.check import judged
from planloom.testing.history.violation import LAWS
from tests.core.speculating import Simulated, random_plan
from tests.core.test_speculation import world_of
from tests.testing.histories import RECORDINGS, altered, recorded

BEGIN_TURNS = (*FACT_TYPES, ResultRefused, AnswerRefused)
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.jsonl") if path.stem != "wide")
NOTES = {"CallStarted", "CallEnded", "OutputStreamed", "AttemptWaiting", "CircuitChanged", "AnswerRefused"}
"""Events that nothing follows from; one of them more or less makes another record, and a lawful one."""


def moments(record: list[Recorded]) -> list[list[Recorded]]:
    """Return the record as it stood after each of its turns."""
    starts = [place for place, entry in enumerate(record) if place and isinstance(entry.event, BEGIN_TURNS)]
    return [record[:place] for place in (*starts, len(record))]


@pytest.mark.parametrize("name", NAMES)
def test_no_recording_is_accused_at_any_moment(name: str) -> None:
    record = recorded(name)

    accused = [found for part in moments(record) for found in check_history(part, run_id="r", before=part[:-1])]

    assert accused == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_no_run_with_steps_that_run_ahead_is_accused_at_any_moment(seed: int) -> None:
    document = random_plan(seed, timing_matters=seed % 3 == 0, contended=seed % 2 == 0)
    limits = {"max_concurrent": 1 + seed % 4, "max_tool_calls": 6} if seed % 4 == 1 else None
    run = Simulated(document, world_of(seed), restart_at=None if seed % 2 else seed / 3, limits=limits)
    pairs = zip(run.causes, run.journal, strict=True)
    record = [Recorded(seq, cause, event) for seq, (cause, event) in enumerate(pairs, start=1)]

    accused = [found for part in moments(record) for found in check_history(part, run_id="run")]

    assert accused == []


@pytest.mark.parametrize("name", NAMES)
def test_an_event_that_is_gone_or_comes_twice_is_noticed(name: str) -> None:
    record = recorded(name)

    missed = [
        f"{type(entry.event).__name__} {how}"
        for entry in record[:-1]
        for how, alteration in (("gone", {"out": [entry.seq]}), ("twice", {"after": {entry.seq: [entry.event]}}))
        if type(entry.event).__name__ not in NOTES and not check_history(altered(record, **alteration), run_id="r")
    ]

    # Whether a run was asked to rest where it would have rested anyway, and whether what ran ahead had answered before
    # it was confirmed, nothing else tells.
    assert set(missed) <= {"PauseRequested gone", "PauseRequested twice", "SpeculationAnswered gone"}


@pytest.mark.slow
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_heap_of_events_can_be_judged(data: st.DataObject) -> None:
    one, other = (recorded(data.draw(st.sampled_from(NAMES))) for _ in range(2))
    heap = data.draw(st.lists(st.sampled_from(one + other), max_size=25))
    renumbered = [Recorded(seq, seq - 1, entry.event) for seq, entry in enumerate(heap, start=1)]

    for record in (heap, renumbered, [one[0], *renumbered]):
        found = check_history(record, tool_calls=[LoggedCall("a", 1, "k", "pay")], before=one)
        assert all(violation.law in LAWS for violation in found)


@pytest.mark.parametrize(
    ("before", "seq"),
    [(lambda chain: [*chain, chain[0]], 1), (lambda chain: [chain[0], chain[0]], 1)],
    ids=["more was known", "something else was known"],
)
def test_what_was_known_to_be_on_record_has_to_be_there(before: Any, seq: int) -> None:
    chain = recorded("chain")

    found = check_history(chain, before=before(chain))

    assert [(one.law, one.seq) for one in found] == [("I1", seq)]


# --- with what tools say ---------------------------------------------------------------------------


def paid(step: str = "c", attempt: int = 1, key: str = "r/c") -> LoggedCall:
    return LoggedCall(step, attempt, key, "pay")


def laws(found: list[Violation]) -> list[tuple[str, str]]:
    return [(one.law, one.step) for one in found]


def test_a_tool_log_with_each_call_once_is_lawful() -> None:
    assert check_history(recorded("chain"), tool_calls=[paid(), LoggedCall("b", 1, "r/b", "put")]) == []


def test_a_once_tool_called_twice_with_one_key_is_noticed() -> None:
    assert laws(check_history(recorded("chain"), tool_calls=[paid(), paid()])) == [("I3", "c")]


def test_a_tool_that_may_run_again_may_be_called_twice_with_one_key() -> None:
    again = [LoggedCall("b", 1, "r/b", "put")] * 2

    assert check_history(recorded("chain"), tool_calls=again) == []


def test_a_call_whose_start_is_not_on_record_is_noticed() -> None:
    assert laws(check_history(recorded("chain"), tool_calls=[paid(attempt=2)])) == [("I3", "c")]
    assert laws(check_history(recorded("chain")[:5], tool_calls=[paid()])) == [("I3", "c")]


def test_a_once_tool_may_be_called_again_where_a_person_or_the_tool_itself_said_so() -> None:
    calls = [LoggedCall("q0", attempt, "r/q0", "pay") for attempt in (1, 2)]
    later = [LoggedCall("b", attempt, "r/b", "not_yet") for attempt in (1, 2, 3)]

    assert check_history(recorded("once-cut"), tool_calls=calls) == []
    assert check_history(recorded("retries"), tool_calls=later) == []


def test_a_call_inside_an_attempt_needs_a_start_of_its_own_on_record() -> None:
    record, call = recorded("agent"), LoggedCall("do", 1, "r/do/tool", "pay")

    assert check_history(record, tool_calls=[call]) == []
    assert laws(check_history(altered(record, out=[5]), tool_calls=[call])) == [("I3", "do")]


def test_what_was_looked_at_is_counted() -> None:
    counted = judged(recorded("map")).counted

    assert counted["I8"] == {"maps": 1, "items": 4}
    assert counted["I3"] == {"once attempts": 4, "attempts without effects": 1}
    assert counted["I1"] == {"events": 14}


def test_what_judges_a_record_asks_nothing_of_the_heart() -> None:
    judges = Path(check.__file__).parent
    names = {
        name
        for path in (*judges.glob("*.py"), judges.parent / "reference.py")
        for name in re.findall(r"^ *from (planloom\.\S+) import", path.read_text(encoding="utf-8"), re.MULTILINE)
    }

    used = {name for name in names if name.startswith(("planloom.core.", "planloom.runtime.", "planloom.executors."))}
    assert used == {"planloom.core.events", "planloom.core.result"}

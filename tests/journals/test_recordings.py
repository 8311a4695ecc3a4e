"""What an earlier planloom wrote, today's reads, replays and decides alike. Recordings are added, never changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from planloom.core.events import EVENT_TYPES, RunFinished
from planloom.core.report import run_result
from planloom.runtime.replay import diverges, replayed
from planloom.testing import check_history
from tests.journals.recording import read, written

RECORDINGS = sorted(Path(__file__).parent.glob("v*/*.jsonl"))
NAMES = [f"{path.parent.name}/{path.stem}" for path in RECORDINGS]


@pytest.mark.parametrize("path", RECORDINGS, ids=NAMES)
def test_a_recording_replays_to_the_end_it_had(path: Path) -> None:
    record = read(path)

    machine = replayed("r", record)

    last = record[-1].event
    assert isinstance(last, RunFinished)
    assert (run_result(machine.state).status, run_result(machine.state).output) == (last.status, last.output)


@pytest.mark.parametrize("path", RECORDINGS, ids=NAMES)
def test_the_facts_of_a_recording_lead_to_the_decisions_in_it(path: Path) -> None:
    assert diverges("r", read(path)) is None


@pytest.mark.parametrize("path", RECORDINGS, ids=NAMES)
def test_a_recording_breaks_no_law(path: Path) -> None:
    assert check_history(read(path), run_id="r") == []


@pytest.mark.parametrize("path", RECORDINGS, ids=NAMES)
def test_a_recording_is_written_as_it_was_read(path: Path) -> None:
    assert list(written(read(path))) == path.read_text(encoding="utf-8").splitlines()


def test_every_kind_of_event_but_a_refused_result_is_in_some_recording() -> None:
    seen = {type(entry.event) for path in RECORDINGS for entry in read(path)}

    assert {event.__name__ for event in EVENT_TYPES if event not in seen} == {"ResultRefused"}

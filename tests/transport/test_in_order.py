"""Events of runs, as heard over a bus that keeps no order and no promise."""

from __future__ import annotations

import json
import random

import pytest

from planloom.errors import ProtocolError
from planloom.transport import in_order
from planloom.transport.event import Event, read_event
from planloom.transport.in_order import InOrder, Unheard


def event(seq: int | None, suffix: str = "", run: str = "r", *, of: int = 1) -> Event:
    name = f"{run}/{seq}{suffix}"
    return Event(name, "planloom.step.requested", "/planloom/runs/r", 1.0, "a", run, None, {}, seq, of)


def told(order: InOrder, *events: Event, now: float = 0.0) -> list[str | tuple[int, int]]:
    return named([one for heard in events for one in order.heard(heard, now)])


def named(found: list[Event | Unheard]) -> list[str | tuple[int, int]]:
    return [(one.first, one.last) if isinstance(one, Unheard) else one.id for one in found]


def test_what_comes_in_order_goes_on_at_once_and_what_comes_twice_goes_on_once() -> None:
    order = InOrder()

    assert told(order, event(1), event(2), event(2), event(2, "/started"), event(1), event(3)) == [
        "r/1",
        "r/2",
        "r/2/started",
        "r/3",
    ]
    assert order.due_at is None


def test_what_comes_early_waits_for_what_was_before_it() -> None:
    order = InOrder()

    assert told(order, event(1), event(4), event(3), event(3, "/started"), event(4)) == ["r/1"]
    assert told(order, event(2)) == ["r/2", "r/3", "r/3/started", "r/4"]
    assert order.due_at is None


def test_what_never_comes_is_told_as_missed_after_a_moment_and_left_out_when_it_comes_then() -> None:
    order = InOrder(patience_s=1.0)
    told(order, event(1), event(4), now=10.0)

    assert order.due_at == 11.0
    assert named(order.overdue(10.9)) == []
    assert named(order.overdue(11.0)) == [(2, 3), "r/4"]
    assert told(order, event(3), event(5)) == ["r/5"]


def test_an_entry_of_which_a_part_was_lost_is_told_as_missed_whether_more_comes_or_not() -> None:
    order = InOrder(patience_s=1.0)

    assert told(order, event(1, of=2), event(2), now=0.0) == ["r/1"]
    assert named(order.overdue(1.0)) == [(1, 1), "r/2"]
    assert told(order, event(1, "/started", of=2), event(3, of=2), now=5.0) == ["r/3"]
    assert named(order.overdue(6.0)) == [(3, 3)]
    assert told(order, event(3, "/started", of=2), event(4)) == ["r/4"]
    assert order.due_at is None


def test_an_entry_whose_parts_come_with_the_next_between_is_whole() -> None:
    order = InOrder()

    assert told(order, event(1, of=2), event(2), event(1, "/started", of=2)) == ["r/1", "r/1/started", "r/2"]
    assert order.due_at is None


def test_each_hole_is_told_by_itself() -> None:
    order = InOrder(patience_s=1.0)
    told(order, event(1), event(3), event(6), now=0.0)

    assert named(order.overdue(1.0)) == [(2, 2), "r/3"]
    assert named(order.overdue(2.0)) == [(4, 5), "r/6"]


def test_runs_wait_each_for_itself_and_a_run_joined_in_the_middle_says_what_was_before() -> None:
    order = InOrder(patience_s=1.0)

    assert told(order, event(7, run="b"), event(1, run="a"), now=0.0) == ["a/1"]
    assert named(order.overdue(1.0)) == [(1, 6), "b/7"]


def test_what_is_on_no_record_is_in_no_order() -> None:
    assert told(InOrder(), event(None)) == ["r/None"]


def test_little_is_kept_however_much_is_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_order, "MOST_HELD", 3)
    monkeypatch.setattr(in_order, "KEPT_RUNS", 2)
    order = InOrder()

    assert told(order, event(5), event(6), event(8), event(9)) == [(1, 4), "r/5", "r/6"]
    for run in "abcd":
        told(order, event(1, run=run))
    assert len(order._runs) <= 3


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_bus_does_every_entry_is_told_once_or_missed_once_and_in_order(seed: int) -> None:
    dice, order = random.Random(seed), InOrder(patience_s=1.0)
    sent = [event(seq, suffix, run, of=2) for run in "ab" for seq in range(1, 40) for suffix in ("", "/started")]
    on_the_way = [(position + dice.uniform(0, 8), one) for position, one in enumerate(sent) if dice.random() > 0.1]
    on_the_way += [(position + dice.uniform(0, 8), one) for position, one in dice.sample(on_the_way, 20)]
    found: list[Event | Unheard] = []

    for moment, one in sorted(on_the_way, key=lambda pair: pair[0]):
        found += order.overdue(moment / 10)
        found += order.heard(one, moment / 10)
    found += order.overdue(1e9)

    for run in "ab":
        numbers = [
            range(one.first, one.last + 1) if isinstance(one, Unheard) else [one.seq]
            for one in found
            if (one.run_id if isinstance(one, Unheard) else one.correlation_id) == run
        ]
        seqs = [seq for group in numbers for seq in group]
        assert sorted(seqs, key=lambda seq: seq or 0) == seqs
        assert set(seqs) == set(range(1, max(seq or 0 for seq in seqs) + 1))
        missed = {seq for group in numbers if isinstance(group, range) for seq in group}
        heard = [group[0] for group in numbers if isinstance(group, list)]
        assert all(heard.count(seq) == 2 for seq in set(seqs) - missed)
    ids = [one.id for one in found if isinstance(one, Event)]
    assert len(ids) == len(set(ids))


def test_an_event_is_read_as_it_was_told() -> None:
    one = Event("r/3", "planloom.step.completed", "/planloom/runs/r", 1_760_000_000.5, "a", "r", None, {"x": 1}, 3, 2)

    assert read_event(json.dumps(one.to_dict()).encode()) == one


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"specversion": "0.3"},
        {"time": "yesterday"},
        {"sequence": "x"},
        {"sequence": 3},
        {"entryevents": 0},
        {"entryevents": "2"},
        {"data": []},
        {"subject": ""},
    ],
    ids=str,
)
def test_what_is_no_event_is_refused(change: dict[str, object]) -> None:
    told = event(1).to_dict() | change

    with pytest.raises(ProtocolError):
        read_event(json.dumps(told).encode())
    with pytest.raises(ProtocolError):
        read_event(b"[]")

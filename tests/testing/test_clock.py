"""The clock that tests own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.testing.clock import ManualClock


def test_time_passes_only_when_it_is_told_to() -> None:
    clock = ManualClock(100.0)

    assert clock.now() == 100.0
    clock.advance(5)
    assert clock.now() == 105.0
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)
    assert clock.now() == 105.0


def test_what_is_due_is_called_in_order_at_its_time_and_not_before() -> None:
    clock, called = ManualClock(0.0), []
    for when in (3.0, 1.0, 2.0, 9.0):
        clock.call_at(when, lambda when=when: called.append((when, clock.now())))

    clock.advance(5)

    assert called == [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]
    assert clock.next_due == 9.0


def test_what_is_set_on_the_way_is_called_on_the_way() -> None:
    clock, called = ManualClock(0.0), []

    def again() -> None:
        called.append(clock.now())
        clock.call_at(clock.now() + 1, again)

    clock.call_at(1.0, again)
    clock.advance(3.5)

    assert called == [1.0, 2.0, 3.0]


def test_a_cancelled_callback_is_not_called_and_cancelling_late_is_harmless() -> None:
    clock, called = ManualClock(0.0), []
    cancel = clock.call_at(1.0, lambda: called.append("cancelled"))
    late = clock.call_at(2.0, lambda: called.append("called"))

    cancel()
    clock.advance(3)
    cancel()
    late()

    assert called == ["called"]
    assert clock.next_due is None
    assert clock.advance_to_next() is False


def test_what_is_due_in_the_past_is_called_when_time_next_passes_and_time_does_not_go_back() -> None:
    clock, called = ManualClock(10.0), []
    clock.call_at(3.0, lambda: called.append(clock.now()))

    assert called == []
    clock.advance(0)

    assert called == [10.0]


@given(st.lists(st.floats(0, 100), max_size=30), st.lists(st.floats(0, 20), max_size=20))
def test_any_callbacks_come_once_and_in_order_and_none_early(whens: list[float], steps: list[float]) -> None:
    clock, called = ManualClock(0.0), []
    for when in whens:
        clock.call_at(when, lambda when=when: called.append((when, clock.now())))

    for step in (*steps, 0):
        clock.advance(step)

    assert [when for when, _ in called] == sorted(when for when in whens if when <= clock.now())
    assert all(when == at for when, at in called)

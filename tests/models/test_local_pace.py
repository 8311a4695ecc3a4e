"""Whether token-level speculation pays, by what was measured."""

from __future__ import annotations

from planloom.models.local.pace import FADING, PROBE_EVERY, Pace, Rate


def measured(sped: float, plain: float) -> Pace:
    pace = Pace()
    pace.sped.add(100, 100 / sped)
    pace.plain.add(100, 100 / plain)
    return pace


def test_the_first_call_is_sped_up_and_the_second_measures_the_model_by_itself() -> None:
    pace = Pace()

    first = pace.go()
    pace.sped.add(100, 1.0)
    second = pace.go()

    assert (first, second) == (True, False)


def test_what_is_slower_is_off_but_for_one_call_in_twenty() -> None:
    pace = measured(sped=9.0, plain=10.0)

    went = [pace.go() for _ in range(2 * PROBE_EVERY)]

    assert [at for at, one in enumerate(went, start=1) if one] == [PROBE_EVERY, 2 * PROBE_EVERY]


def test_what_is_faster_is_on_but_for_one_call_in_twenty() -> None:
    pace = measured(sped=10.0, plain=10.0)

    went = [pace.go() for _ in range(PROBE_EVERY)]

    assert [at for at, one in enumerate(went, start=1) if not one] == [PROBE_EVERY]


def test_the_latest_calls_weigh_most_and_a_few_tokens_measure_nothing() -> None:
    rate = Rate()
    rate.add(10, 1.0)
    rate.add(7, 100.0)
    rate.add(100, 1.0)

    assert rate.per_s == (10 * FADING + 100) / (FADING + 1)

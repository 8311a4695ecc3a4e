"""Part: what one of several calls of an attempt used, while the attempt hears all of it."""

from __future__ import annotations

from planloom.core.result import Usage
from planloom.executors.part import Part
from tests.executors.attempts import Books


def test_a_part_counts_its_own_and_the_whole_counts_everything() -> None:
    books = Books()
    one, other = Part(books), Part(books)

    one.report_usage(Usage(10, 1, requests=1))
    one.report_usd(0.5)
    other.report_usage(Usage(20, 2, requests=1))
    other.report_usage(Usage(30, 3, requests=1))
    other.report_usd(0.25)
    other.report_call()

    assert (one.usage, one.usd) == (Usage(10, 1, requests=1), 0.5)
    assert (other.usage, other.last, other.usd) == (Usage(50, 5, requests=2), Usage(30, 3, requests=1), 0.25)
    assert (books.reported_usage, books.reported_usd, books.reported_calls) == (Usage(60, 6, requests=3), 0.75, 1)
    assert one.reported_usage == books.reported_usage, "a grant is for all parts together"
    assert (one.reported_usd, one.reported_calls) == (0.75, 1)


def test_what_a_part_cost_is_unknown_only_if_it_asked_somebody() -> None:
    asked, idle = Part(Books()), Part(Books())

    asked.report_usage(Usage(10, 1, requests=1))

    assert (asked.usd, idle.usd) == (None, 0.0)


def test_what_goes_on_beside_other_work_is_not_heard() -> None:
    books = Books()
    front, beside = Part(books), Part(books, is_held=True)

    for part in (front, beside):
        part.stream("text")
        part.waiting("rate", 7.0)

    assert (books.streamed, books.waits) == (["text"], ["rate"])


def test_parts_of_parts_have_one_root() -> None:
    books = Books()

    assert Part(Part(books)).root is books


def test_a_part_is_stopped_with_its_whole_and_gives_up_what_it_left_running() -> None:
    books = Books()
    part = Part(books)

    books.stopping = True
    part.abandon()
    part.wait(2.0)

    assert (part.stopping, part.closing) == (True, False)
    assert (books.abandoned, part.abandoned) == (True, True)
    assert (books.waited_s, part.waited_s) == (2.0, 2.0)
    assert part.clock is books.clock

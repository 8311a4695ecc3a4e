from __future__ import annotations

import pytest

from planloom.core.result import StepStatus
from planloom.observe.looks import LOOKS, cells, counted, duration_text, money_text, padded, printable, shortened
from planloom.observe.table import table_text


def test_every_status_has_a_look() -> None:
    assert {status.value for status in StepStatus} < set(LOOKS)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.0321, "32 ms"),
        (0.9996, "1.00 s"),
        (1.239, "1.24 s"),
        (9.996, "10.0 s"),
        (59.4, "59.4 s"),
        (59.96, "1 min 0 s"),
        (125.4, "2 min 5 s"),
        (11_220, "3 h 7 min"),
    ],
)
def test_durations_are_short_and_carry_their_unit(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("cost", "text"), [(None, ""), (0.0, "$0.00"), (0.00021, "$0.00021"), (0.034, "$0.03"), (1234.5, "$1,234.50")]
)
def test_money_shows_what_it_says_below_a_cent(cost: float | None, text: str) -> None:
    assert money_text(cost) == text


def test_counts_have_their_plural() -> None:
    assert (counted(1, "step"), counted(0, "step"), counted(1200, "step")) == ("1 step", "0 steps", "1,200 steps")


def test_printable_escapes_what_could_steer_a_terminal_and_keeps_the_rest() -> None:
    assert printable("a\nb\x1b[0m\u202eü日\ud800") == "a b\\x1b[0m\\u202eü日\\ud800"


def test_cells_count_wide_and_combining_characters() -> None:
    assert (cells("abc"), cells("日本"), cells("e\u0301")) == (3, 4, 1)
    assert shortened("日本語テキスト", 7) == "日本語…"
    assert padded("日", 4) == "日  "


def test_columns_are_aligned_and_cut_to_the_terminal() -> None:
    rows = [{"step": "a", "time": "32 ms"}, {"step": "a-long-name-of-a-step", "time": None}]

    assert table_text(rows, ["step", "time"], right={"time"}) == (
        "step                    time\na                      32 ms\na-long-name-of-a-step"
    )
    assert table_text(rows, ["step", "time"], width=20).splitlines()[2] == "a-long-name-…"


def test_a_table_without_rows_is_its_heading() -> None:
    assert table_text([], ["run_id", "status"]) == "run id  status"

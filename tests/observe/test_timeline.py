from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from observe.pictured import EVIL_IDS, MIXED_RESULT, NOON, run_result, step_result
from planloom.core.events import AttemptFailed, AttemptSucceeded, StepDispatched
from planloom.observe.looks import cells
from planloom.observe.timeline import Attempt, attempts_of, timeline_svg, timeline_text
from planloom.plan.policy import FailureKind
from planloom.ports import Recorded

SVG = "{http://www.w3.org/2000/svg}"


def bars_of(text: str, step: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(text)
    row = next(group for group in root.iter(f"{SVG}g") if group.get("data-step") == step)
    bars = [bar for bar in row.iter(f"{SVG}rect") if "pl-bar" in (bar.get("class") or "")]
    return [(float(bar.get("x") or 0), float(bar.get("width") or 0)) for bar in bars]


def test_bars_are_as_long_as_the_steps_took() -> None:
    result = run_result(
        step_result("a", "completed", started_at=NOON, ended_at=NOON + 1),
        step_result("b", "completed", started_at=NOON + 1, ended_at=NOON + 4),
    )

    text = timeline_svg(result)

    [(a_x, a_width)], [(b_x, b_width)] = bars_of(text, "a"), bars_of(text, "b")
    assert (a_width, b_width) == (160.0, 480.0)
    assert b_x == a_x + a_width


def test_each_attempt_is_a_bar_of_its_own() -> None:
    attempts = [
        Attempt("broken", 1, NOON + 0.1, NOON + 1, failed=True),
        Attempt("broken", 2, NOON + 2, NOON + 4, failed=True),
    ]

    assert len(bars_of(timeline_svg(MIXED_RESULT, attempts=attempts), "broken")) == 2
    assert len(bars_of(timeline_svg(MIXED_RESULT), "broken")) == 1


def test_what_still_runs_is_drawn_up_to_the_latest_moment_on_record() -> None:
    [(begin, width)] = bars_of(timeline_svg(MIXED_RESULT), "busy")
    [(other_begin, other_width)] = bars_of(timeline_svg(MIXED_RESULT), "broken")

    assert begin + width == other_begin + other_width


def test_attempts_are_read_from_the_record_with_those_under_way() -> None:
    failed = AttemptFailed("a", 1, 1, FailureKind.ERROR, "no", started_at=NOON + 1, at=NOON + 2)
    events = [
        StepDispatched("a", 1, 1, NOON),
        failed,
        StepDispatched("a", 2, 1, NOON + 3),
        AttemptSucceeded("a", 2, 1, None, started_at=NOON + 3, at=NOON + 4),
        StepDispatched("b", 1, 1, NOON + 5),
    ]

    assert attempts_of([Recorded(seq, 0, event) for seq, event in enumerate(events, 1)]) == [
        Attempt("a", 1, NOON + 1, NOON + 2, failed=True),
        Attempt("a", 2, NOON + 3, NOON + 4),
        Attempt("b", 1, NOON + 5),
    ]


def test_strange_ids_leave_the_svg_well_formed() -> None:
    result = run_result(*(step_result(step_id, "failed", started_at=NOON, ended_at=NOON) for step_id in EVIL_IDS))

    root = ElementTree.fromstring(timeline_svg(result))

    assert "script" not in {element.tag.removeprefix(SVG) for element in root.iter()}


def test_text_never_gets_wider_than_the_terminal() -> None:
    result = run_result(
        step_result("a" * 300, "completed", started_at=NOON, ended_at=NOON + 1),
        step_result("日本語" * 30, "running", started_at=NOON),
    )

    for width in (40, 80, 133):
        assert max(map(cells, timeline_text(result, width).splitlines())) <= width


def test_text_bars_begin_where_the_step_began() -> None:
    result = run_result(
        step_result("a", "completed", started_at=NOON, ended_at=NOON + 2),
        step_result("b", "failed", started_at=NOON + 2, ended_at=NOON + 4),
    )

    first, second, _axis = timeline_text(result, 60, ascii_only=True).splitlines()

    assert first.index("=") + first.count("=") == second.index("=")
    assert first.startswith("+ a")
    assert second.startswith("x b")


def test_a_run_without_a_started_step_says_so() -> None:
    assert timeline_text(run_result(step_result("a", "pending")), 80) == "no step has started\n"
    assert "1 step not started" in timeline_svg(run_result(step_result("a", "pending")))

from __future__ import annotations

from observe.pictured import DIAMOND, EVIL, MAPPED, MIXED, MIXED_RESULT, NESTED, NOON, run_result, step_result
from planloom.core.result import RunStatus, Usage
from planloom.observe.looks import LOOKS
from planloom.observe.text import graph_text, steps_table, summary_lines


def test_a46_a_mixed_run_shows_five_different_symbols_and_its_levels() -> None:
    lines = graph_text(MIXED, MIXED_RESULT).splitlines()

    symbols = {line.split()[1]: line.split()[0] for line in lines if line.startswith("  ") and "(" in line}
    assert symbols == {"done": "✓", "broken": "✗", "passed_by": "↷", "busy": "▶", "waiting": "○"}
    assert [line for line in lines if line.startswith("level")] == ["level 0", "level 1", "level 2"]


def test_a46_symbols_differ_between_all_statuses_also_in_ascii() -> None:
    assert len({look.symbol for look in LOOKS.values()}) == len(LOOKS)
    assert len({look.ascii for look in LOOKS.values()}) == len(LOOKS)


def test_a_plan_without_a_run_is_drawn_without_statuses() -> None:
    assert graph_text(DIAMOND) == (
        "diamond (4 steps)\n\n"
        "level 0\n  a (tool t)\n\n"
        "level 1\n  b (tool t)\n  c (tool t)\n\n"
        "level 2\n  d (tool t)\n\n"
        "edges\n  a → b\n  a → c\n  b → d\n  c → d\n"
    )


def test_conditions_stand_beside_their_edges() -> None:
    assert "  done → passed_by  if steps.done.output.n < 3" in graph_text(MIXED).splitlines()


def test_the_steps_of_a_sub_plan_stand_under_it() -> None:
    lines = graph_text(NESTED).splitlines()

    at = lines.index("  inner (plan sub)")
    assert lines[at + 1 : at + 4] == ["      level 0", "        x (tool t)", "        y (tool t)"]


def test_a_map_shows_how_many_items_are_done() -> None:
    items = tuple(step_result(f"each[{index}]", "failed" if index == 1 else "completed") for index in range(3))
    result = run_result(step_result("each", "completed", width=3, parts=items))

    assert "  ✓ each (tool t) completed [3 items, 2 done, 1 failed]" in graph_text(MAPPED, result).splitlines()


def test_no_plan_can_steer_a_terminal() -> None:
    result = run_result(step_result("]]>", "failed", error="\x1b]0;owned\x07\n\x9b31m"))

    text = graph_text(EVIL, result) + "\n".join(summary_lines(result))

    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    assert "\\x1b[31mred\\x00" in text
    assert "\\u202eback" in text


def test_ascii_only_is_ascii_only() -> None:
    assert graph_text(EVIL, run_result(step_result("日本語", "completed")), ascii_only=True).isascii()
    assert "  done -> broken" in graph_text(MIXED, ascii_only=True)


def test_the_table_has_a_row_for_each_step() -> None:
    rows = steps_table(MIXED_RESULT)

    assert rows[1] == {
        "step": "broken",
        "status": "✗ failed",
        "time": "3.90 s",
        "cost": "$0.03",
        "attempts": 3,
        "doer": "t",
        "note": "no",
    }
    assert rows[2]["note"] == "condition false"
    assert rows[4]["time"] is None


def test_a_summary_says_how_it_ended_what_it_took_and_what_failed() -> None:
    result = run_result(
        step_result("a", "completed"),
        step_result("b", "failed", error="KeyError: 'x'"),
        step_result("c", "timed_out", error="30 s passed"),
        status=RunStatus.FAILED,
        error="KeyError: 'x'",
        failed_step="b",
        cost_usd=0.5,
        usage=Usage(1_000, 234, 2),
        started_at=NOON,
        active_s=2.0,
    )

    assert summary_lines(result) == [
        "failed: 1 of 3 steps completed, 2.00 s, cost $0.50, 1,234 tokens",
        "error: step b: KeyError: 'x'",
        "c: timed out: 30 s passed",
    ]


def test_a_summary_names_the_limits_and_the_people_it_waits_for() -> None:
    result = run_result(
        step_result("ok", "running", waiting="approval"),
        status=RunStatus.WAITING,
        exceeded_limits=("max_tool_calls",),
        limits_not_enforced=("max_cpu_percent",),
    )

    assert summary_lines(result) == [
        "waits for a person: 0 of 1 step completed",
        "limit reached: max_tool_calls",
        "not enforced here: max_cpu_percent",
        "ok: waits for approval",
    ]

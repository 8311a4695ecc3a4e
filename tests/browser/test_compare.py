"""Two runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright", reason="not installed: playwright")
from playwright.sync_api import expect

from tests.browser.conftest import Server, Watched
from tests.browser.doing import ended, faults

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page


def step_line(page: Page, step: str) -> Any:
    """Return the line of a step in the second table."""
    return page.locator(
        ".versus.steps tbody tr:not(.outputs)", has=page.get_by_role("rowheader", name=step, exact=True)
    )


def width(page: Page, step: str, place: int) -> float:
    box = step_line(page, step).locator(".pace").nth(place).bounding_box()
    assert box is not None
    return float(box["width"])


def compared(watched: Watched, server: Server, *runs: str) -> Page:
    for run_id in runs:
        ended(server, run_id)
    watched.page.goto(f"{server.url}/#/compare/{'/'.join(runs)}")
    watched.page.get_by_role("heading", name="Compare two runs").wait_for()
    return watched.page


def test_two_runs_of_a_plan_differ_in_output_status_and_time(server: Server, watched: Watched, tmp_path: Path) -> None:
    def submit(value: int, seconds: float) -> None:
        marker = {"marker": str(tmp_path / "there")}
        run_id = server.submit(
            {"id": "same", "tool": "echo", "with": {"value": "alike"}},
            {"id": "other", "tool": "echo", "with": {"value": "${{ inputs.value }}"}},
            {"id": "slow", "tool": "linger", "with": {"value": 1, "seconds": "${{ inputs.seconds }}"}},
            {"id": "shaky", "tool": "flaky", "with": marker, "retry": {"max_attempts": 1}, "on_error": "continue"},
            inputs={"value": {"default": value}, "seconds": {"default": seconds}},
        )
        server.until_ended(run_id)

    submit(1, 0.0)
    submit(2, 0.5)
    page = watched.page
    page.goto(server.url)
    expect(page.get_by_role("button", name="Compare two")).to_be_disabled()
    for place in (0, 1):
        page.locator(".runs tbody").get_by_role("checkbox").nth(place).check()

    page.get_by_role("button", name="Compare two").click()

    expect(page.get_by_text("of two versions of a plan")).to_be_visible()
    expect(page.locator(".verdict")).to_have_text("2 of 4 steps differ.")
    expect(step_line(page, "same").get_by_role("button")).to_have_text("same")
    expect(step_line(page, "other").get_by_role("button")).to_have_text("output differs")
    expect(step_line(page, "slow").get_by_role("button")).to_have_text("same")
    expect(step_line(page, "shaky").get_by_role("button")).to_have_text("status, output, error differ")
    expect(step_line(page, "shaky")).to_contain_text("failed")
    expect(step_line(page, "shaky")).to_contain_text("completed")
    widths = sorted(width(page, "slow", place) for place in (0, 1))
    assert widths[1] == pytest.approx(64, abs=1)
    assert widths[0] < 32
    page.get_by_label("only what differs").check()
    expect(page.locator(".versus.steps tbody tr:not(.outputs)")).to_have_count(2)
    page.get_by_role("button", name="other: output differs").click()
    expect(page.locator(".outputs:visible pre")).to_have_text(["2", "1"])
    page.get_by_role("button", name="shaky").click()
    expect(page.locator(".outputs:visible pre.bad")).to_contain_text("the far side said 503")
    assert faults(page) == []


def test_runs_of_different_plans_are_compared_by_the_names_of_their_steps(server: Server, watched: Watched) -> None:
    first = server.submit(
        {"id": "read", "tool": "echo", "with": {"value": 1}},
        {"id": "old", "tool": "echo", "with": {"value": 1}},
        {"id": "each", "tool": "echo", "for_each": [1, 2], "with": {"value": "${{ item }}"}},
        name="before",
    )
    second = server.submit(
        {"id": "read", "tool": "linger", "with": {"value": 1, "seconds": 0}},
        {"id": "new", "tool": "echo", "with": {"value": 1}},
        {"id": "each", "tool": "echo", "for_each": [1, 3], "with": {"value": "${{ item }}"}},
        name="after",
    )

    page = compared(watched, server, first, second)

    expect(page.get_by_text("of different plans")).to_be_visible()
    expect(page.locator(".verdict")).to_have_text("5 of 6 steps differ; 2 of them are in one of the runs only.")
    expect(step_line(page, "read").get_by_role("button")).to_have_text("what it does differs")
    expect(step_line(page, "old").get_by_role("button")).to_have_text("only in the first")
    expect(step_line(page, "new").get_by_role("button")).to_have_text("only in the second")
    expect(step_line(page, "new")).to_contain_text("not there")
    expect(step_line(page, "each[0]").get_by_role("button")).to_have_text("same")
    expect(step_line(page, "each[1]").get_by_role("button")).to_have_text("output differs")


def test_runs_that_came_to_the_same_say_so_and_fit_a_phone(server: Server, watch: Callable[..., Watched]) -> None:
    runs = [server.submit({"id": "read", "tool": "echo", "with": {"value": 1}}, name="alike") for _ in range(2)]
    watched = watch(server, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, color_scheme="dark")

    page = compared(watched, server, *runs)
    page.get_by_label("only what differs").check()

    expect(page.locator(".verdict")).to_have_text("All of 1 step came to the same.")
    expect(page.get_by_text("Nothing differs.")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert faults(page) == []

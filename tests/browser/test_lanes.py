"""What is not plain on a timeline and in a budget: guesses, what was taken back, retries, what is set aside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright", reason="not installed: playwright")
from playwright.sync_api import expect

from tests.browser.conftest import Server, Watched
from tests.browser.doing import faults, line, opened

if TYPE_CHECKING:
    from pathlib import Path


def drafted(server: Server, go: Path, draft: str, **limits: Any) -> str:
    """Begin a run whose first step has a draft at once, and its answer, "north", when `go` is there."""
    prompt = json.dumps({"until": str(go), "say": "north", "draft": draft})
    return server.submit(
        {"id": "first", "model": "slow", "prompt": prompt, "speculate": {"draft": "quick", "policy": "compare"}},
        {"id": "next", "tool": "linger", "with": {"value": "${{ steps.first.output }}", "seconds": 0.1}},
        name=f"drafted {draft}",
        **({"limits": limits} if limits else {}),
    )


def heard(page: Any, step: str) -> str:
    """Return what a step's line says to those who do not see its bars."""
    return str(line(page, step).locator(".hidden").text_content())


def test_a_step_that_runs_ahead_on_a_draft_is_seen_while_it_does_and_when_it_is_confirmed(
    server: Server, watched: Watched, tmp_path: Path
) -> None:
    page = opened(watched, server, drafted(server, tmp_path / "go", "north"))
    legend = page.get_by_role("list", name="What the bars mean")
    expect(line(page, "next").locator(".guess")).to_have_text("runs ahead")
    expect(line(page, "next").locator(".strip.lane-ahead")).to_have_count(1)
    expect(line(page, "first").locator(".strip.lane-draft")).to_have_count(1)
    expect(legend).to_contain_text("a cheaper model's draft")
    expect(legend).to_contain_text("ran ahead, on values not yet confirmed")
    expect(legend).not_to_contain_text("taken back")
    found = faults(page)

    (tmp_path / "go").touch()

    expect(line(page, "next").locator(".guess")).to_have_text("ran ahead ✓")
    expect(line(page, "next").locator(".strip")).to_have_count(1)
    expect(line(page, "next").locator(".strip.confirmed")).to_have_count(1)
    expect(legend).to_contain_text("ran ahead, and was confirmed")
    expect(line(page, "next")).to_have_class("line s-completed")
    assert "ran ahead, on values not yet confirmed, completed" in heard(page, "next")
    assert ", confirmed" in heard(page, "next")
    assert "a cheaper model's draft" in heard(page, "first")
    expect(page.locator(".totals")).to_contain_text("1 right, 0 wrong, 0 taken back")
    assert found == []


def test_what_ran_ahead_on_a_wrong_draft_is_seen_to_be_taken_back(
    server: Server, watched: Watched, tmp_path: Path
) -> None:
    page = opened(watched, server, drafted(server, tmp_path / "go", "south"))
    expect(line(page, "next").locator(".strip.lane-ahead")).to_have_count(1)

    (tmp_path / "go").touch()

    expect(line(page, "next")).to_have_class("line s-completed")
    expect(line(page, "next").locator(".guess")).to_have_text("taken back")
    expect(line(page, "next").locator(".strip.taken-back")).to_have_count(1)
    expect(line(page, "next").locator(".strip:not(.lane-ahead)")).to_have_count(1)
    expect(page.get_by_role("list", name="What the bars mean")).to_contain_text("taken back: its result was not used")
    expect(page.locator(".totals")).to_contain_text("0 right, 1 wrong, 1 taken back")
    assert "taken back, its result not used" in heard(page, "next")
    line(page, "next").click()
    expect(page.locator(".step")).to_contain_text("ran ahead: taken back, its result not used")
    assert faults(page) == []


def test_each_attempt_of_a_retried_step_is_a_bar_with_its_number_and_the_wait_between_them(
    server: Server, watched: Watched, tmp_path: Path
) -> None:
    retry = {"max_attempts": 3, "initial_delay": 0.3}
    run_id = server.submit({"id": "load", "tool": "flaky", "with": {"marker": str(tmp_path / "x")}, "retry": retry})
    page = opened(watched, server, run_id)
    expect(line(page, "load")).to_have_class("line s-completed")

    strips = line(page, "load").locator(".strip")
    expect(strips).to_have_text(["1", "2"])
    expect(strips.nth(0)).to_have_class("strip s-failed")
    expect(strips.nth(1)).to_have_class("strip s-completed")
    expect(line(page, "load").locator(".between")).to_have_count(1)
    expect(line(page, "load").locator(".retried")).to_have_text("×2")
    expect(page.get_by_role("list", name="What the bars mean")).to_contain_text("waits to try again")
    expect(page.locator(".totals div", has_text="retries")).to_contain_text("1")
    assert "attempt 1: failed" in heard(page, "load")
    assert "attempt 2: completed" in heard(page, "load")
    boxes = [strips.nth(place).bounding_box() for place in (0, 1)]
    wait = line(page, "load").locator(".between").bounding_box()
    assert boxes[0]
    assert boxes[1]
    assert wait
    assert boxes[0]["x"] + boxes[0]["width"] == pytest.approx(wait["x"], abs=1.5)
    assert wait["x"] + wait["width"] == pytest.approx(boxes[1]["x"], abs=1.5)


def part_of(page: Any, label: str) -> tuple[float, float, str]:
    """Return which parts of a limit are drawn as used and as set aside, and what is said of it."""
    meter = page.get_by_role("meter", name=label, exact=True)
    used, held = (meter.locator(part).evaluate("one => parseFloat(one.style.width)") for part in (".used", ".held"))
    return used, held, str(meter.get_attribute("aria-valuetext"))


def test_a_budget_tells_what_is_used_what_is_set_aside_and_what_is_left(
    server: Server, watched: Watched, tmp_path: Path
) -> None:
    limits = {"max_tool_calls": 4, "max_total_cost_usd": 1.0, "max_total_tokens": 100_000}
    prompt = json.dumps({"until": str(tmp_path / "go"), "say": "north", "draft": ""})
    run_id = server.submit(
        {"id": "first", "tool": "echo", "with": {"value": 1}},
        {"id": "wait", "tool": "until", "with": {"marker": str(tmp_path / "go")}, "needs": ["first"]},
        {"id": "ask", "model": "slow", "prompt": prompt, "needs": ["first"]},
        limits=limits,
    )
    page = opened(watched, server, run_id)
    expect(line(page, "wait")).to_have_class("line s-running")
    expect(line(page, "ask")).to_have_class("line s-running")
    expect(page.locator(".key-of-bars")).to_contain_text("set aside for what is under way")
    told = {one["name"]: one for one in server.call(f"/runs/{run_id}/view")["budget"]}
    calls, cost = part_of(page, "tool calls"), part_of(page, "cost")

    (tmp_path / "go").touch()
    expect(page.locator(".bar.run .state")).to_contain_text("success")

    assert calls == (25, 25, "1 of 4 used, 1 set aside for what is under way")
    expect(page.locator(".limit", has_text="tool calls").locator(".amount")).to_have_text("2 / 4")
    assert cost[0] == 0
    assert cost[1] == pytest.approx(told["max_total_cost_usd"]["reserved"] * 100, abs=0.01)
    assert cost[1] > 0
    assert part_of(page, "tool calls") == (50, 0, "2 of 4 used")
    after = part_of(page, "cost")
    assert 0 < after[0] < cost[1]
    assert after[1] == 0
    expect(page.locator(".key-of-bars")).not_to_contain_text("set aside")


def test_a_limit_that_is_reached_is_full_and_says_so(server: Server, watched: Watched) -> None:
    run_id = server.submit(
        {"id": "first", "tool": "echo", "with": {"value": 1}},
        {"id": "second", "tool": "echo", "with": {"value": 1}, "needs": ["first"]},
        limits={"max_tool_calls": 1},
    )
    page = opened(watched, server, run_id)

    expect(page.locator(".bar.run .state")).to_contain_text("limit exceeded")
    expect(page.locator(".used.full")).to_have_count(1)
    assert part_of(page, "tool calls")[0] == 100
    expect(page.get_by_role("alert").first).to_contain_text("Stopped at a limit: tool calls")

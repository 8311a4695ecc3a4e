"""The page for those who do not see it, see it badly, or have no mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright", reason="not installed: playwright")
from playwright.sync_api import expect

from tests.browser.conftest import Server, Watched
from tests.browser.doing import faults, line, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

FORM = {
    "type": "object",
    "required": ["score"],
    "properties": {
        "score": {"type": "integer", "description": "1 to 5"},
        "audience": {"enum": ["everybody", "the team"]},
        "urgent": {"type": "boolean"},
        "sender": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
}
WHERE = """() => {
    const one = document.activeElement;
    const own = one.getAttribute("aria-label") || [...(one.labels ?? [])].map((label) => label.textContent).join();
    const part = one.matches(".line, g[data-step]") ? one.dataset.step : own || one.textContent;
    const style = getComputedStyle(one);
    const card = one.querySelector(".pl-card");
    const ring = style.outlineStyle !== "none" || (card && parseFloat(getComputedStyle(card).strokeWidth) > 3);
    return [part.trim(), Boolean(ring)];
}"""


def run_with_everything(server: Server, tmp_path: Path) -> str:
    """Begin a run that asks, goes on, has failed in part, has retried, and waits."""
    flaky = {"tool": "flaky", "with": {"marker": str(tmp_path / "x")}}
    return server.submit(
        {"id": "read", "tool": "echo", "for_each": list(range(20)), "with": {"value": "${{ item }}"}},
        {"id": "load", **flaky, "retry": {"max_attempts": 2, "initial_delay": 0.01}},
        {"id": "lost", **flaky, "with": {"marker": str(tmp_path / "y")}, "retry": {"max_attempts": 1}},
        {"id": "behind", "tool": "echo", "with": {"value": 1}, "needs": ["lost"]},
        {"id": "review", "approve": {"message": "Is it good?", "form": FORM}},
        {"id": "send", "tool": "send", "with": {"to": "a@example.org", "text": "Hello"}},
        {"id": "wait", "tool": "until", "with": {"marker": str(tmp_path / "never")}},
        {"id": "after", "tool": "echo", "with": {"value": 1}, "needs": ["wait"]},
        name="everything",
        limits={"max_tool_calls": 40, "timeout_seconds": 600},
        fail_fast=False,
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1360, 860), (390, 844)], ids=["desk", "phone"])
def test_every_part_of_a_run_can_be_read_named_and_hit(
    server: Server, watch: Callable[..., Watched], tmp_path: Path, theme: Any, size: tuple[int, int]
) -> None:
    width, height = size
    is_phone = width < 500
    run_id = run_with_everything(server, tmp_path)
    viewport = {"width": width, "height": height}
    watched = watch(server, viewport=viewport, color_scheme=theme, is_mobile=is_phone, has_touch=is_phone)
    page = opened(watched, server, run_id)
    expect(page.locator(".question")).to_have_count(2)
    expect(line(page, "lost")).to_have_class("line s-failed")
    expect(line(page, "load")).to_have_class("line s-completed")
    found = {"run": faults(page)}

    line(page, "load").click()
    expect(page.locator(".step .tries li")).to_have_count(2)
    page.locator(".fork summary").click()
    found["step"] = faults(page)
    page.get_by_role("button", name="Close").click()
    page.locator(".log summary").click()
    found["events"] = faults(page)
    page.get_by_role("button", name="Cancel …").click()
    found["dialog"] = faults(page)
    widths = [page.evaluate("document.documentElement.scrollWidth")]
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.locator(".bar.run .state")).to_contain_text("cancelled")
    page.goto(f"{server.url}/#/")
    page.locator(".runs tbody tr").first.wait_for()
    found["runs"] = faults(page)
    widths.append(page.evaluate("document.documentElement.scrollWidth"))

    assert {part: told for part, told in found.items() if told} == {}
    assert widths == [width, width]


def test_tab_goes_from_top_to_bottom_and_is_seen_wherever_it_is(
    server: Server, watched: Watched, tmp_path: Path
) -> None:
    page = opened(watched, server, run_with_everything(server, tmp_path))
    expect(page.locator(".question")).to_have_count(2)
    expect(line(page, "lost")).to_have_class("line s-failed")
    expect(page.locator(".chips")).to_contain_text("running")
    stops = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(WHERE))
        if stops[-1][0].startswith("Events"):
            break

    names = [name for name, _ in stops]
    order = [
        "Skip to the content", "planloom", "Runs", "Download the record", "Pause", "Cancel …", "review", "score",
        "audience (optional)", "urgent", "name (optional)", "Your name", "Deny", "Approve", "Smaller", "Larger",
        "Fit into the page", "Find a step",
    ]  # fmt: skip
    assert list(dict.fromkeys(name for name in names if name in order)) == order
    assert names.index("read") < names.index("Find a step"), "the graph is one stop"
    assert sum(name in ("read", "load", "lost", "wait") for name in names) == 2, "and so are the lines"
    assert names[-1].startswith("Events")
    assert [name for name, ring in stops if not ring] == []


def test_the_content_is_reached_at_once_and_a_dialog_gives_the_cursor_back(
    server: Server, watched: Watched, tmp_path: Path
) -> None:
    page = opened(watched, server, run_with_everything(server, tmp_path))

    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.get_by_role("button", name="Cancel …").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Cancel this run?")).to_be_visible()
    expect(page.get_by_label("Why")).to_be_focused()
    page.keyboard.press("Escape")

    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Cancel …")).to_be_focused()
    expect(page.locator(".bar.run .state")).not_to_contain_text("cancelled")
    page.get_by_role("link", name="Runs").click()
    expect(page.locator("main")).to_be_focused()
    page.go_back()
    page.get_by_role("button", name="Cancel …").click()
    page.go_forward()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_what_is_wrong_is_found(server: Server, watched: Watched) -> None:
    page: Page = watched.page
    page.goto(server.url)
    page.get_by_role("heading", name="Runs").wait_for()

    page.evaluate(
        """() => {
            const make = (tag, text, colour) => {
                const one = document.createElement(tag);
                one.textContent = text;
                one.style.color = colour;
                document.querySelector("main").append(one);
                return one;
            };
            make("p", "pale", "rgb(190, 190, 190)");
            make("button", "", "black");
            make("input", "", "black");
            make("h1", "another", "black").id = "main";
            make("button", "x", "black").style.height = "12px";
        }"""
    )

    told = " ".join(faults(page))
    for part in ("contrast 1.7", "no name: button", "no name: input", "twice: #main", "not one h1", "hard to hit"):
        assert part in told

"""Large runs: a budget for drawing 500 steps, and 1,000 steps that people can find their way in.

Rule 1: what is counted (elements, lines drawn anew, views asked for) is exact on any machine; seconds are compared with
what the same browser needs for a plain table just before, and with a limit of their own only on top of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright", reason="not installed: playwright")
from playwright.sync_api import expect

from tests.browser.conftest import Server, Watched
from tests.browser.doing import ended, faults, line, opened

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import CDPSession, Page

DRAWN_S = 3.0
"""Seconds of work in which a run of 500 steps is drawn; on a quiet machine it takes less than half of one."""
MOST_TABLES = 25
"""How many plain tables of 500 lines the same browser could draw meanwhile; it takes about five."""
ELEMENTS = 500
"""Elements of a page without any step, and of each step that is drawn."""
ELEMENTS_A_STEP = 25
TABLE = """() => {
  const begun = performance.now();
  const body = document.createElement("div");
  for (let row = 0; row < 500; row += 1) {
    const line = document.createElement("div");
    line.style.cssText = "display:grid;grid-template-columns:repeat(12,1fr)";
    for (let cell = 0; cell < 12; cell += 1) {
      const part = document.createElement("span");
      part.textContent = `step ${row} ${cell}`;
      line.append(part);
    }
    body.append(line);
  }
  document.body.append(body);
  body.getBoundingClientRect();
  const took = performance.now() - begun;
  body.remove();
  return took / 1000;
}"""


def busy_s(cdp: CDPSession) -> float:
    """Return the seconds for which the page's main thread was busy so far."""
    metrics = cdp.send("Performance.getMetrics")["metrics"]
    return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))


def settled(page: Page) -> None:
    page.evaluate("new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)))")


def chains(number: int) -> list[dict[str, Any]]:
    """Return chains of 25 steps each: none is like another, so that each is drawn."""
    echo = {"tool": "echo", "with": {"value": 1}}
    return [{"id": f"s{n}", **echo, "needs": [f"s{n - 1}"] if n % 25 else []} for n in range(number)]


def star(number: int) -> list[dict[str, Any]]:
    """Return steps that are alike, after one that is not."""
    first = {"id": "s0", "tool": "echo", "with": {"value": 0}}
    return [first, *({**first, "id": f"s{n}", "needs": ["s0"]} for n in range(1, number))]


@pytest.mark.parametrize(("shape", "lines"), [(chains, 500), (star, 2)], ids=["chains", "star"])
def test_five_hundred_steps_are_drawn_within_their_budget(
    server: Server, watched: Watched, shape: Any, lines: int
) -> None:
    run_id = server.submit(*shape(500), name=shape.__name__)
    assert ended(server, run_id)["status"] == "success"
    page = watched.page
    page.goto(server.url)
    page.locator(".runs tbody a").first.wait_for()
    plain_s = sorted(page.evaluate(TABLE) for _ in range(5))[2]
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable")
    before_s = busy_s(cdp)

    page.goto(f"{server.url}/#/runs/{run_id}")
    expect(page.locator(".line")).to_have_count(lines)
    expect(page.locator("#link")).to_have_attribute("data-state", "ended")
    settled(page)
    took_s = busy_s(cdp) - before_s

    elements = page.evaluate("document.querySelectorAll('*').length")
    print(f"500 steps, {shape.__name__}: busy {took_s:.2f} s, {took_s / plain_s:.1f} plain tables, {elements} elements")
    assert elements < lines * ELEMENTS_A_STEP + ELEMENTS
    assert took_s < DRAWN_S
    assert took_s / plain_s < MOST_TABLES


def test_a_step_that_goes_on_redraws_its_own_line_and_no_other(
    server: Server, watched: Watched, tmp_path: Path
) -> None:
    wait = {"id": "wait", "tool": "until", "with": {"marker": str(tmp_path / "go")}}
    page = opened(watched, server, server.submit(*chains(500), wait))
    expect(page.locator(".line.s-completed")).to_have_count(500)
    page.evaluate(
        """() => {
            window.drawn = new Set();
            new MutationObserver((all) => {
                for (const one of all) window.drawn.add(one.target.closest?.(".line")?.dataset.step ?? "");
            }).observe(document.querySelector(".lines"), { childList: true, subtree: true });
        }"""
    )
    views: list[str] = []
    page.on("request", lambda request: views.append(request.url) if "/view" in request.url else None)

    (tmp_path / "go").touch()
    expect(line(page, "wait")).to_have_class("line s-completed")
    expect(page.locator("#link")).to_have_attribute("data-state", "ended")

    assert page.evaluate("[...window.drawn]") == ["wait"]
    assert len(views) <= 3


def test_a_thousand_steps_are_a_few_lines_that_open(server: Server, watched: Watched) -> None:
    each = {"id": "each", "tool": "echo", "for_each": "${{ steps.s0.output }}", "with": {"value": "${{ item }}"}}
    steps = [*star(1_000), each]
    steps[0] = {**steps[0], "with": {"value": list(range(40))}}
    run_id = server.submit(*steps, name="a thousand")
    assert ended(server, run_id)["status"] == "success"
    page = opened(watched, server, run_id)
    group = page.locator(".line[data-group]")

    expect(page.locator("#link")).to_have_attribute("data-state", "ended")
    expect(page.locator(".line")).to_have_count(3)
    expect(page.locator(".stage g[data-step]")).to_have_count(3)
    expect(group).to_contain_text("s1 … s999")
    expect(group).to_have_attribute("aria-expanded", "false")
    expect(page.locator(".chips")).to_contain_text("1,041completed")
    assert page.evaluate("document.querySelectorAll('*').length") < ELEMENTS + 3 * ELEMENTS_A_STEP
    assert faults(page) == []

    group.locator(".twist").click()
    expect(page.locator(".line")).to_have_count(3 + 999)
    expect(group).to_have_attribute("aria-expanded", "true")
    group.locator(".twist").click()
    expect(page.locator(".line")).to_have_count(3)
    line(page, "each").locator(".twist").click()
    expect(page.locator(".line")).to_have_count(3 + 40)

    page.get_by_label("Find a step").fill("s77")
    expect(page.locator(".line .key")).to_have_text(["s77", *(f"s77{n}" for n in range(10))])
    expect(page.locator(".timeline > p")).to_contain_text("11 steps of")
    page.get_by_label("Find a step").fill("")
    expect(page.locator(".line")).to_have_count(3 + 40)


def test_a_box_of_many_steps_opens_each_of_them_and_trouble_comes_first(
    server: Server, watched: Watched, tmp_path: Path
) -> None:
    flaky = {"tool": "flaky", "needs": ["first"], "retry": {"max_attempts": 1}, "on_error": "continue"}
    for n in range(319):
        (tmp_path / str(n)).touch()
    steps = [{**flaky, "id": f"s{n}", "with": {"marker": str(tmp_path / str(n))}} for n in range(320)]
    run_id = server.submit({"id": "first", "tool": "echo", "with": {"value": 0}}, *steps)
    ended(server, run_id)
    page = opened(watched, server, run_id)
    expect(page.locator(".stage g[data-step]")).to_have_count(2)
    group = page.locator(".line[data-group]")
    expect(group).to_have_class("line s-failed")
    expect(group.locator(".strip.s-failed")).to_have_count(1)

    page.locator('g[data-step="s0"]').click()
    panel = page.locator(".step")
    expect(panel.locator("h2")).to_have_text("s0 … s319")
    expect(panel).to_contain_text("319 completed, 1 failed")
    expect(panel.locator(".members li").first).to_contain_text("s319")
    panel.get_by_role("button", name="s7, completed", exact=True).click()

    expect(panel.locator("h2")).to_have_text("s7")
    expect(line(page, "s7")).to_have_attribute("aria-selected", "true")
    expect(page.locator('g[data-step="s0"]')).to_have_class("pl-step pl-failed is-selected")


def test_what_is_folded_is_opened_and_walked_by_keyboard(server: Server, watched: Watched) -> None:
    run_id = server.submit(
        {"id": "first", "tool": "echo", "with": {"value": list(range(20))}},
        {"id": "each", "tool": "echo", "for_each": "${{ steps.first.output }}", "with": {"value": "${{ item }}"}},
    )
    page = opened(watched, server, run_id)
    expect(page.locator("#link")).to_have_attribute("data-state", "ended")
    expect(page.locator(".line")).to_have_count(2)

    page.locator('.lines [tabindex="0"]').focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".line")).to_have_count(22)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".step h2")).to_have_text("each[0]")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    expect(line(page, "each")).to_be_focused()
    page.keyboard.press("ArrowLeft")

    expect(page.locator(".line")).to_have_count(2)
    expect(line(page, "each")).to_be_focused()
    expect(line(page, "each")).to_have_attribute("aria-expanded", "false")

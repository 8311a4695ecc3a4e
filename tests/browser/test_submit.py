"""A run is begun from the page: with a plan of the server, or with one that somebody brings along."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright", reason="not installed: playwright")
from playwright.sync_api import expect

from tests.browser.conftest import Server, Watched
from tests.browser.doing import faults, line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page, Route

NAMED = """
planloom: 1
name: weekly note
description: Writes what happened in a week.
inputs:
  week: {type: string, description: "its Monday"}
  words: {type: integer, minimum: 10, maximum: 500, default: 120}
  tone: {enum: [plain, formal], default: plain}
  urgent: {type: boolean}
steps:
  - id: write
    tool: echo
    with: {value: {week: "${{ inputs.week }}", words: "${{ inputs.words }}", tone: "${{ inputs.tone }}"}}
"""
BROUGHT = """planloom: 1
name: brought along
inputs:
  who: {type: string}
steps:
  - {id: greet, tool: echo, with: {value: "Hello ${{ inputs.who }}"}}
"""
WRONG = """planloom: 1
name: wrong
steps:
  - id: a
    tool: ecko
  - id: b
    tool: echo
    with: {value: "${{ steps.c.output }}"}
    retry: {max_attempts: lots}
"""
CALLED = """one => one.getAttribute("aria-label")
    || [...(one.labels ?? [])].map((label) => label.textContent).join() || one.textContent"""


@pytest.fixture
def plans(server: Server) -> Path:
    """Return the folder of the server's plans, with one that can run and one that cannot."""
    folder = server.folder / "plans"
    (folder / "weekly.yaml").write_text(NAMED)
    (folder / "wrong.yaml").write_text(WRONG)
    return folder


def on_new_run(watched: Watched, server: Server) -> Page:
    page = watched.page
    page.goto(f"{server.url}/#/new")
    page.get_by_role("heading", name="New run").wait_for()
    return page


def bring(page: Page, text: str) -> None:
    page.get_by_text("your own", exact=True).click()
    page.get_by_label("Plan, as YAML or JSON").fill(text)
    page.get_by_role("button", name="Check").click()


def test_a_plan_of_the_server_is_run_with_the_inputs_of_its_form(server: Server, watched: Watched, plans: Path) -> None:
    page = watched.page
    page.goto(server.url)
    page.get_by_role("link", name="New run").click()
    page.get_by_role("radio", name="weekly note").check()

    page.get_by_label("week", exact=True).fill("2026-11-16")
    page.get_by_label("tone").select_option("formal")
    page.get_by_text("Limits").click()
    page.get_by_label("Tool calls").fill("3")
    page.get_by_role("button", name="Run", exact=True).click()

    expect(line(page, "write")).to_have_class("line s-completed")
    expect(page.locator(".limit", has_text="tool calls").locator(".amount")).to_have_text("1 / 3")
    run_id = page.url.rpartition("/")[2]
    told = server.call(f"/runs/{run_id}")
    assert told["inputs"] == {"week": "2026-11-16", "words": 120, "tone": "formal", "urgent": False}
    assert told["result"] == {"week": "2026-11-16", "words": 120, "tone": "formal"}


def test_a_plan_that_is_brought_along_is_checked_whole_before_it_runs(server: Server, watched: Watched) -> None:
    watched.allowed = ("422",)
    page = on_new_run(watched, server)
    begin = page.get_by_role("button", name="Run", exact=True)
    bring(page, WRONG)

    found = page.locator(".problems li")
    expect(found).to_have_count(3)
    expect(page.get_by_role("alert").first).to_contain_text("3 problems")
    expect(found.nth(0)).to_contain_text("did you mean 'echo'?")
    expect(found.nth(2)).to_contain_text("must be a whole number")
    expect(begin).to_be_disabled()
    found.nth(1).get_by_role("button", name="line 8").click()
    text = page.get_by_label("Plan, as YAML or JSON")
    expect(text).to_be_focused()
    at = text.evaluate("box => box.value.slice(0, box.selectionStart).split('\\n').length")
    bring(page, BROUGHT)
    expect(found).to_have_count(0)
    page.get_by_label("who").fill("Ann")
    begin.click()

    expect(line(page, "greet")).to_have_class("line s-completed")
    assert at == 8
    assert server.call(f"/runs/{page.url.rpartition('/')[2]}")["result"] == "Hello Ann"


def test_a_plan_that_is_changed_is_checked_anew_and_keeps_what_was_filled_in(server: Server, watched: Watched) -> None:
    page = on_new_run(watched, server)
    bring(page, BROUGHT)
    page.get_by_label("who").fill("Ann")

    page.get_by_label("Plan, as YAML or JSON").fill(BROUGHT.replace("Hello", "Goodbye"))
    expect(page.get_by_text("changed since it was checked")).to_be_visible()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Check").click()
    page.get_by_role("button", name="Run", exact=True).click()

    expect(line(page, "greet")).to_have_class("line s-completed")
    assert server.call(f"/runs/{page.url.rpartition('/')[2]}")["result"] == "Goodbye Ann"


def test_a_plan_file_is_opened(server: Server, watched: Watched, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(BROUGHT)
    page = on_new_run(watched, server)
    page.get_by_text("your own", exact=True).click()

    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Open a file").click()
    chooser.value.set_files(path)

    expect(page.get_by_text("nothing is wrong with it")).to_be_visible()
    expect(page.get_by_text("brought along, 1 step")).to_be_visible()
    expect(page.get_by_label("who")).to_be_visible()


def test_all_that_is_wrong_with_inputs_is_told_below_each_field(server: Server, watched: Watched, plans: Path) -> None:
    watched.allowed = ("422",)
    page = watched.page
    page.goto(f"{server.url}/#/new/weekly")
    page.get_by_label("words").fill("many")
    begin = page.get_by_role("button", name="Run", exact=True)

    begin.click()
    expect(page.get_by_text("week is needed")).to_be_visible()
    expect(page.get_by_text("words: many is no integer")).to_be_visible()
    expect(page.get_by_label("week", exact=True)).to_be_focused()
    page.get_by_label("week", exact=True).fill("2026-11-16")
    page.get_by_label("words").fill("7")
    begin.click()

    expect(page.get_by_label("words")).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".field", has=page.get_by_label("words"))).to_contain_text("does not fit")
    expect(page.get_by_label("words")).to_be_focused()


def test_a_plan_of_the_server_that_cannot_run_says_why(server: Server, watched: Watched, plans: Path) -> None:
    watched.allowed = ("422",)
    page = on_new_run(watched, server)

    page.get_by_role("radio", name="wrong").check()

    expect(page.locator(".problems li")).to_have_count(3)
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()


def test_a_run_whose_answer_was_lost_is_begun_once(server: Server, watched: Watched) -> None:
    watched.allowed = ("ERR_FAILED", "ERR_ABORTED")
    page = on_new_run(watched, server)
    bring(page, BROUGHT.replace("brought along", "begun once"))
    page.get_by_label("who").fill("Ann")
    sent: list[str] = []

    def lose(route: Route) -> None:
        sent.append(route.request.headers["idempotency-key"])
        if len(sent) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/runs", lose)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(".inputs .problems")).to_contain_text("the server cannot be reached")
    page.get_by_role("button", name="Run", exact=True).click()

    expect(line(page, "greet")).to_have_class("line s-completed")
    assert sent[0] == sent[1]
    assert len(server.call("/runs?plan=begun%20once")["runs"]) == 1


def test_a_run_is_begun_by_keyboard_alone(server: Server, watched: Watched, plans: Path) -> None:
    page = watched.page
    page.goto(server.url)
    page.get_by_role("heading", name="Runs").wait_for()

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if name in str(page.locator(":focus").evaluate(CALLED)):
                return
        raise AssertionError(f"Tab does not come to {name}")

    tab_to("New run")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="New run").wait_for()
    tab_to("weekly note")
    page.keyboard.press("Space")
    page.get_by_label("week", exact=True).wait_for()
    tab_to("week")
    page.keyboard.type("2026-11-16")
    page.keyboard.press("Control+Enter")

    expect(line(page, "write")).to_have_class("line s-completed")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_form_fits_a_phone_in_both_themes(
    server: Server, watch: Callable[..., Watched], plans: Path, theme: Any
) -> None:
    watched = watch(server, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, color_scheme=theme)
    watched.allowed = ("422",)
    page = watched.page
    page.goto(f"{server.url}/#/new/weekly")
    page.get_by_role("button", name="Run", exact=True).tap()
    expect(page.get_by_text("week is needed")).to_be_visible()
    found, widths = faults(page), [page.evaluate("document.documentElement.scrollWidth")]

    bring(page, WRONG)
    expect(page.locator(".problems li")).to_have_count(3)
    found += faults(page)
    widths.append(page.evaluate("document.documentElement.scrollWidth"))

    assert found == []
    assert widths == [390, 390]

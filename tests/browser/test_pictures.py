"""One run as people would have it open, in every dress: light, dark, on a phone. `--pictures` keeps what was seen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("playwright", reason="not installed: playwright")
from playwright.sync_api import expect

from tests.browser.conftest import PICTURES, Server, Watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Page

SETTINGS = """
[server]
plans = ["plans"]

[models]
writer = "scripted:///{folder}/answers.json?repeat_last=true"
editor = "scripted:///{folder}/answers.json?repeat_last=true"

[prices.writer]
input = 2.5
output = 10.0

[prices.editor]
input = 2.5
output = 10.0
"""
NOTE = (
    "The long rains came two weeks late and the reservoirs stand at 61 %. Prices of maize rose by a tenth in the north "
    "and hardly at all on the coast, where last year's stores are not yet sold."
)
REVIEW = {
    "type": "object",
    "required": ["score", "audience"],
    "properties": {
        "score": {"type": "integer", "title": "Score, 1 to 5"},
        "audience": {"enum": ["everybody", "the team"]},
        "remark": {"type": "string"},
        "urgent": {"type": "boolean"},
    },
}
LIMITS = {"max_total_cost_usd": 0.05, "max_tool_calls": 12, "timeout_seconds": 90, "max_total_tokens": 20000}
KEPT = {"run-light", "run-dark", "step-dark", "runs-light", "phone", "phone-step", "new-light", "compare-light"}
"""Of all that could be kept: what the docs show."""
WIDTH, HEIGHT = 1280, 1240
PLANS = {
    "weekly": """planloom: 1
name: weekly note
description: Reads the pages of the regions, writes a note, and sends it once somebody has approved.
inputs:
  week: {type: string, description: "its Monday, such as 2026-11-16"}
  regions: {type: array, items: {type: string}, default: [north, coast, lakes]}
  tone: {enum: [plain, formal], default: plain}
  words: {type: integer, minimum: 50, maximum: 500, default: 120}
steps:
  - {id: read, tool: fetch, for_each: "${{ inputs.regions }}", with: {url: "${{ item }}"}}
  - {id: draft, model: writer, prompt: "Write ${{ inputs.words }} words: ${{ steps.read.output }}"}
  - {id: send, tool: send, with: {to: desk@example.org, text: "${{ steps.draft.output }}"}}
""",
    "import": """planloom: 1
name: nightly import
description: Takes what came in during the day into the archive.
steps:
  - {id: load, tool: fetch, with: {url: "https://example.org/today"}}
""",
}


def weekly_note() -> list[dict[str, Any]]:
    regions = ["north", "coast", "lakes", "capital"]
    flaky = {"id": "prices", "tool": "flaky", "with": {"marker": "seen"}}
    read = {"id": "read", "tool": "fetch", "for_each": "${{ steps.regions.output }}", "with": {"url": "${{ item }}"}}
    letter = {"to": "desk@example.org", "text": "${{ steps.edit.output }}"}
    return [
        {"id": "regions", "tool": "echo", "with": {"value": regions}},
        read,
        flaky | {"retry": {"max_attempts": 3, "initial_delay": 0.3}},
        {"id": "rates", "tool": "nap", "with": {"seconds": 0.9}},
        {"id": "draft", "model": "writer", "prompt": "Write a note: ${{ steps.read.output }}", "needs": ["prices"]},
        {"id": "figures", "tool": "nap", "with": {"seconds": 0.5}, "needs": ["prices"]},
        {"id": "edit", "model": "editor", "prompt": "Edit: ${{ steps.draft.output }}", "needs": ["rates", "figures"]},
        {"id": "review", "approve": {"message": "Does the weekly note read well?", "form": REVIEW}, "needs": ["edit"]},
        {"id": "send", "tool": "send", "with": letter, "needs": ["review"]},
        {"id": "archive", "tool": "until", "with": {"marker": "archived"}, "needs": ["edit"]},
    ]


@pytest.fixture
def weekly(tmp_path: Path) -> Iterator[tuple[Server, str]]:
    """Return a server, and a run on it that waits for a person while something else is under way."""
    (tmp_path / "answers.json").write_text(json.dumps([NOTE]))
    (tmp_path / "plans").mkdir()
    for name, text in PLANS.items():
        (tmp_path / "plans" / f"{name}.yaml").write_text(text)
    server = Server(tmp_path, settings=SETTINGS.format(folder=str(tmp_path).lstrip("/")))
    server.start()
    server.submit({"id": "hello", "tool": "echo", "with": {"value": "hello"}}, name="say hello")
    server.submit({"id": "load", "tool": "flaky", "with": {"marker": str(tmp_path / "load")}}, name="nightly import")
    server.submit({"id": "ask", "approve": {"message": "Pay it?"}}, name="pay an invoice")
    stopped = server.submit({"id": "nap", "tool": "nap", "with": {"seconds": 60}}, name="index the archive")
    server.call(f"/runs/{stopped}/cancel", {"reason": "not needed"})
    run_id = server.submit(*weekly_note(), name="weekly note", limits=LIMITS)
    yield server, run_id
    server.kill()


def keep(request: pytest.FixtureRequest, page: Page, name: str, *, height: int | None = None) -> None:
    if request.config.getoption("--pictures") and name in KEPT:
        PICTURES.mkdir(parents=True, exist_ok=True)
        part: Any = None if height is None else {"x": 0, "y": 0, "width": WIDTH, "height": height}
        page.screenshot(path=PICTURES / f"{name}.png", animations="disabled", clip=part)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_run_in_both_themes(
    request: pytest.FixtureRequest, weekly: tuple[Server, str], watch: Callable[..., Watched], theme: Any
) -> None:
    server, run_id = weekly
    page = watch(server, viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme).page
    page.goto(f"{server.url}/#/runs/{run_id}")
    expect(page.locator(".question")).to_be_visible()
    expect(page.locator('.line[data-step="archive"]')).to_have_class("line s-running")
    expect(page.locator(".limit")).to_have_count(5)

    keep(request, page, f"run-{theme}")
    page.locator('.line[data-step="prices"]').click()
    expect(page.locator(".step .tries li")).to_have_count(2)
    page.locator(".question").evaluate("node => node.parentElement.hidden = true")
    keep(request, page, f"step-{theme}", height=1000)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    card = page.evaluate("getComputedStyle(document.querySelector('.stage .pl-page')).fill")
    page.goto(server.url)
    expect(page.locator(".runs tbody tr")).to_have_count(5)
    keep(request, page, f"runs-{theme}", height=330)

    assert (ground, card) == {
        "light": ("rgb(244, 246, 249)", "rgb(255, 255, 255)"),
        "dark": ("rgb(7, 12, 23)", "rgb(11, 17, 32)"),
    }[theme]


def test_a_new_run_and_two_side_by_side(
    request: pytest.FixtureRequest, weekly: tuple[Server, str], watch: Callable[..., Watched]
) -> None:
    server, _ = weekly

    def priced(price: float, seconds: float) -> str:
        return server.submit(
            {"id": "price", "tool": "echo", "with": {"value": price}},
            {"id": "stock", "tool": "linger", "with": {"value": {"left": 12}, "seconds": seconds}},
            {"id": "bill", "tool": "echo", "with": {"value": {"sum": "${{ steps.price.output }}", "currency": "EUR"}}},
            name="bill",
        )

    runs = [priced(12.5, 0.3), priced(14.0, 0.1)]
    for run_id in runs:
        server.until_ended(run_id)
    page = watch(server, viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light").page
    page.goto(f"{server.url}/#/new/weekly")
    page.get_by_label("week", exact=True).fill("2026-11-16")
    page.get_by_text("Limits").click()
    expect(page.get_by_label("Tool calls")).to_be_visible()
    keep(request, page, "new-light", height=640)
    page.goto(f"{server.url}/#/compare/{'/'.join(runs)}")
    expect(page.locator(".verdict")).to_have_text("2 of 3 steps differ.")
    page.get_by_role("button", name="bill: output differs").click()
    expect(page.locator(".outputs:visible pre")).to_have_count(2)
    keep(request, page, "compare-light", height=720)


def test_a_run_on_a_phone(
    request: pytest.FixtureRequest, weekly: tuple[Server, str], watch: Callable[..., Watched]
) -> None:
    server, run_id = weekly
    page = watch(server, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True).page
    page.goto(f"{server.url}/#/runs/{run_id}")
    expect(page.locator(".question")).to_be_visible()

    keep(request, page, "phone")
    page.locator('.line[data-step="prices"]').tap()
    expect(page.locator(".step .tries li")).to_have_count(2)
    keep(request, page, "phone-step")
    page.get_by_role("button", name="Close").tap()
    page.get_by_label("Score").fill("5")
    page.get_by_role("button", name="Approve", exact=True).tap()

    expect(page.locator(".question .message")).to_have_text(server_question(server, run_id))


def server_question(server: Server, run_id: str) -> str:
    """Return what the run asks next: whether the letter may be sent."""
    while not (asked := server.call(f"/runs/{run_id}/questions")["questions"]) or asked[0]["step"] != "send":
        pass
    return str(asked[0]["message"])

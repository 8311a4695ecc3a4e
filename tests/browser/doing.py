"""What the tests of the page do again and again: open a run, find a step's line, say what keeps people from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.conftest import Server, Watched

FAULTS = Path(__file__).with_name("faults.js")


def line(page: Page, step: str) -> Any:
    """Return a step's line of the timeline."""
    return page.locator(f'.line[data-step="{step}"]')


def opened(watched: Watched, server: Server, run_id: str) -> Page:
    """Open a run, and return its page once its timeline is there."""
    page = watched.page
    page.goto(f"{server.url}/#/runs/{run_id}")
    page.locator(".line").first.wait_for()
    return page


def ended(server: Server, run_id: str) -> dict[str, Any]:
    """Return a run once it has ended: its stream of events ends with it."""
    server.until_ended(run_id)
    found: dict[str, Any] = server.call(f"/runs/{run_id}")
    return found


def faults(page: Page) -> list[str]:
    """Return what keeps people from using the page who do not see it, see it badly, or have no mouse.

    Every control has a name, every field a label, and all are large enough to be hit; ids are there once; one heading
    of the first rank; what has to be read stands out from its ground by 4.5 to 1 (WCAG 2.2 AA), large letters and signs
    by 3 to 1.
    """
    found: list[str] = page.evaluate(FAULTS.read_text())
    return found

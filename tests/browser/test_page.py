"""The page in a real browser, beside a real server: what people do with it, and what it must never do."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("playwright", reason="not installed: playwright")
from playwright.sync_api import expect

from planloom.server.page import FILES, PICTURE_CSS
from tests.browser.conftest import Server, Watched
from tests.browser.doing import line, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

FORM = {
    "type": "object",
    "required": ["score", "audience"],
    "properties": {
        "score": {"type": "integer"},
        "audience": {"enum": ["everybody", "the team"]},
        "urgent": {"type": "boolean"},
        "sender": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        "limits": {"type": "array", "items": {"type": "number"}},
    },
}
LOST = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
"""What the browser says while the server is away."""


def numbers(page: Page) -> list[int]:
    """Return the numbers of the events that the page shows, in its order."""
    found: list[int] = page.eval_on_selector_all(".events li", "all => all.map(one => Number(one.dataset.seq))")
    return found


def test_a_run_is_found_in_the_list_and_watched_until_it_ends(server: Server, watched: Watched, tmp_path: Path) -> None:
    marker = tmp_path / "go"
    server.submit(
        {"id": "first", "tool": "until", "with": {"marker": str(marker)}},
        {"id": "second", "tool": "echo", "with": {"value": "${{ steps.first.output }}"}},
        name="watched plan",
    )
    page = watched.page
    page.goto(server.url)
    page.get_by_role("link", name="watched plan").click()
    expect(line(page, "first")).to_have_class("line s-running")
    expect(page.locator("#link")).to_have_attribute("data-state", "live")

    marker.touch()

    expect(line(page, "second")).to_have_class("line s-completed")
    expect(page.locator(".bar.run .state")).to_contain_text("success")
    expect(page.get_by_role("status").filter(has_text="watched plan: success")).to_have_count(1)
    expect(page.locator("#link")).to_have_attribute("data-state", "ended")
    expect(page.locator('g[data-step="second"]')).to_contain_text("completed")


def test_an_approval_is_answered_with_the_form_of_its_schema(server: Server, watched: Watched) -> None:
    run_id = server.submit(
        {"id": "review", "approve": {"message": "Is it good?", "form": FORM}},
        {"id": "after", "tool": "echo", "with": {"value": "${{ steps.review.output }}"}},
    )
    page = opened(watched, server, run_id)
    card = page.locator(".question")
    expect(card).to_contain_text("Is it good?")

    card.get_by_role("button", name="Approve", exact=True).click()
    expect(card.get_by_role("alert")).to_contain_text("score is needed")
    card.get_by_label("score").fill("4")
    card.get_by_label("audience").select_option("the team")
    card.get_by_label("urgent").check()
    card.get_by_label("name", exact=True).fill("Ann")
    card.get_by_label("limits").fill("[1, 2.5]")
    card.get_by_role("button", name="Approve", exact=True).click()

    expect(line(page, "after")).to_have_class("line s-completed")
    expect(card).to_have_count(0)
    output = server.call(f"/runs/{run_id}/steps/after")["output"]
    assert output == {
        "score": 4,
        "audience": "the team",
        "urgent": True,
        "sender": {"name": "Ann"},
        "limits": [1, 2.5],
    }


def test_a_call_is_shown_with_its_arguments_and_can_be_denied(server: Server, watched: Watched) -> None:
    run_id = server.submit({"id": "mail", "tool": "send", "with": {"to": "bob@example.org", "text": "Hello"}})
    page = opened(watched, server, run_id)
    expect(page.locator(".question pre")).to_contain_text("bob@example.org")

    page.get_by_role("button", name="Deny").click()

    expect(line(page, "mail")).to_have_class("line s-failed")
    expect(page.locator(".bar.run .state")).to_contain_text("failed")


def test_a_run_is_cancelled(server: Server, watched: Watched, tmp_path: Path) -> None:
    run_id = server.submit({"id": "long", "tool": "until", "with": {"marker": str(tmp_path / "never")}})
    page = opened(watched, server, run_id)
    expect(line(page, "long")).to_have_class("line s-running")

    page.get_by_role("button", name="Cancel …").click()
    page.get_by_label("Why").fill("asked for by mistake")
    page.get_by_role("button", name="Cancel the run").click()

    expect(page.locator(".bar.run .state")).to_contain_text("cancelled")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert server.call(f"/runs/{run_id}")["status"] == "cancelled"
    assert "asked for by mistake" in json.dumps(server.call(f"/runs/{run_id}/events"))


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_the_page_goes_on_after_a_restart_without_gap_or_double(
    own_server: Server, watch: Callable[..., Watched], tmp_path: Path, way: str
) -> None:
    server, watched = own_server, watch(own_server)
    watched.allowed = LOST
    marker = tmp_path / "go"
    run_id = server.submit(
        {"id": "first", "tool": "echo", "with": {"value": 1}},
        {"id": "wait", "tool": "until", "with": {"marker": str(marker)}, "needs": ["first"]},
        {"id": "last", "tool": "echo", "for_each": list(range(200)), "with": {"value": 1}, "needs": ["wait"]},
    )
    page = opened(watched, server, run_id)
    expect(line(page, "wait")).to_have_class("line s-running")
    page.locator(".log summary").click()

    getattr(server, way)()
    expect(page.locator("#link")).to_have_attribute("data-state", "reconnecting")
    server.start()
    marker.touch()

    expect(page.locator("#link")).to_have_attribute("data-state", "ended", timeout=30_000)
    expect(line(page, "last")).to_have_class("line s-completed")
    assert numbers(page) == server.events(run_id)
    assert numbers(page) == list(range(1, len(numbers(page)) + 1))
    assert page.locator("#link").get_attribute("data-doubles") == "0"
    assert page.locator("#link").get_attribute("data-gaps") == "0"


def test_the_list_of_runs_goes_on_after_a_restart(own_server: Server, watch: Callable[..., Watched]) -> None:
    watched = watch(own_server)
    watched.allowed = LOST
    page = watched.page
    page.goto(own_server.url)
    expect(page.get_by_text("No run yet")).to_be_visible()

    own_server.kill()
    expect(page.locator("#link")).to_have_attribute("data-state", "reconnecting")
    own_server.start()
    own_server.submit({"id": "a", "tool": "echo", "with": {"value": 1}}, name="after the restart")

    expect(page.get_by_role("link", name="after the restart")).to_be_visible()
    expect(page.locator("#link")).to_have_attribute("data-state", "live")


def test_a_step_is_reached_and_left_by_keyboard(server: Server, watched: Watched, tmp_path: Path) -> None:
    marker = str(tmp_path / "seen")
    flaky = {"id": "b", "tool": "flaky", "with": {"marker": marker}, "retry": {"max_attempts": 2, "initial_delay": 0}}
    run_id = server.submit(
        {"id": "a", "tool": "echo", "with": {"value": 1}},
        flaky | {"needs": ["a"]},
        {"id": "c", "tool": "echo", "with": {"value": "the output of c"}, "needs": ["b"]},
    )
    page = opened(watched, server, run_id)
    expect(page.locator("#link")).to_have_attribute("data-state", "ended")

    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    panel = page.locator(".step")
    expect(panel.locator("h2")).to_have_text("b")
    expect(panel).to_contain_text("the far side said 503")
    expect(panel.locator(".tries li")).to_have_count(2)
    page.keyboard.press("ArrowDown")
    expect(panel.locator("h2")).to_have_text("c")
    expect(panel).to_contain_text("the output of c")
    page.keyboard.press("Escape")

    expect(panel).to_be_hidden()
    expect(line(page, "c")).to_be_focused()


def test_the_graph_is_walked_by_keyboard(server: Server, watched: Watched) -> None:
    run_id = server.submit(
        {"id": "a", "tool": "echo", "with": {"value": 1}},
        {"id": "b", "tool": "echo", "with": {"value": 1}, "needs": ["a"]},
        {"id": "c", "tool": "echo", "with": {"value": 1}, "needs": ["a"]},
    )
    page = opened(watched, server, run_id)
    expect(page.locator("#link")).to_have_attribute("data-state", "ended")
    page.locator('g[data-step="a"]').focus()

    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")

    expect(page.locator(".step h2")).to_have_text("c")
    expect(page.locator('g[data-step="c"]')).to_have_class("pl-step pl-completed is-selected")


HOSTILE = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>"\'&lt;'


def test_hostile_names_and_values_stay_text(server: Server, watched: Watched) -> None:
    form = {
        "type": "object",
        "properties": {HOSTILE: {"type": "string", "title": HOSTILE, "description": HOSTILE}},
        "required": [HOSTILE],
    }
    run_id = server.submit(
        {"id": "a", "tool": "echo", "with": {"value": {HOSTILE: HOSTILE}}, "description": HOSTILE},
        {"id": "fails", "tool": "until", "with": {"marker": f"\x00{HOSTILE}"}, "on_error": "continue"},
        {"id": "ask", "approve": {"message": HOSTILE, "form": form}, "needs": ["a"]},
        name=HOSTILE,
    )
    page = opened(watched, server, run_id)
    line(page, "a").click()
    expect(page.locator(".step pre").first).to_contain_text(HOSTILE.replace('"', '\\"'))
    expect(page.locator(".question .message")).to_have_text(HOSTILE)
    expect(page.locator("h1")).to_have_text(HOSTILE)
    line(page, "fails").click()
    expect(page.locator(".step h2")).to_have_text("fails")
    page.goto(server.url)
    expect(page.locator(".runs tbody a").first).to_have_text(HOSTILE)

    assert page.evaluate("window.hit") is None
    assert page.locator("main img, main script").count() == 0


def test_a_picture_with_a_script_in_it_is_taken_apart(server: Server, watched: Watched) -> None:
    watched.allowed = ("Content Security Policy",)
    page = watched.page
    page.goto(server.url)

    kept = page.evaluate(
        """async () => {
            const { picture } = await import("/page/dom.js");
            const made = picture(`<svg xmlns="http://www.w3.org/2000/svg" onload="window.hit=1" class="pl-root">
                <script>window.hit=1</script><foreignObject><p>x</p></foreignObject><a href="javascript:1"><g/></a>
                <image href="https://elsewhere.example/x.png"/><animate attributeName="href"/>
                <use href="https://elsewhere.example/#x"/><use href="#pl-i-tool"/>
                <path style="fill:red" marker-end="url(https://elsewhere.example/#a)" d="M0 0"/></svg>`);
            document.getElementById("main").replaceChildren(made);
            return new XMLSerializer().serializeToString(made);
        }"""
    )

    assert page.evaluate("window.hit") is None
    for part in ("script", "foreignObject", "elsewhere", "style", "onload", "javascript", "animate"):
        assert part not in kept
    assert 'href="#pl-i-tool"' in kept


def test_every_answer_of_the_page_says_what_may_run(server: Server, watched: Watched) -> None:
    for path in ("/", *(f"/page/{name}" for name in (*FILES, PICTURE_CSS, "nothing"))):
        answer = watched.page.request.get(server.url + path)

        assert answer.status == (404 if path.endswith("nothing") else 200)
        assert answer.headers["content-security-policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_on_a_phone_nothing_is_wider_than_the_screen(server: Server, watched: Watched) -> None:
    run_id = server.submit(
        *({"id": f"a-rather-long-name-{n}", "tool": "echo", "with": {"value": "x" * 300}} for n in range(12)),
        {"id": "review", "approve": {"message": "Is it good?", "form": FORM}},
    )
    watched.page.set_viewport_size({"width": 390, "height": 844})
    page = opened(watched, server, run_id)
    widths = [page.evaluate("document.documentElement.scrollWidth")]

    line(page, "a-rather-long-name-3").click()
    page.locator(".step pre").first.wait_for()
    widths.append(page.evaluate("document.documentElement.scrollWidth"))
    page.goto(server.url)
    page.locator(".runs tbody tr").first.wait_for()
    widths.append(page.evaluate("document.documentElement.scrollWidth"))

    assert widths == [390, 390, 390]


def test_a_run_is_forked_from_a_step_with_another_output(server: Server, watched: Watched) -> None:
    run_id = server.submit(
        {"id": "price", "tool": "echo", "with": {"value": {"euro": 3}}},
        {"id": "bill", "tool": "echo", "with": {"value": "${{ steps.price.output.euro }}"}},
    )
    page = opened(watched, server, run_id)
    line(page, "price").click()
    page.get_by_text("Go on from here in a new run").click()

    page.get_by_label("as if its output had been").fill('{"euro": 12}')
    page.get_by_role("button", name="Fork").click()

    expect(page.get_by_role("link", name=f"from {run_id}, price edited")).to_be_visible()
    expect(line(page, "bill")).to_have_class("line s-completed")
    newest = server.call("/runs")["runs"][0]["run_id"]
    assert newest != run_id
    assert server.call(f"/runs/{newest}/steps/bill")["output"] == 12


def test_the_rest_of_a_failed_run_is_run_anew(server: Server, watched: Watched) -> None:
    run_id = server.submit(
        {"id": "good", "tool": "echo", "with": {"value": 1}},
        {"id": "bad", "tool": "flaky", "with": {"marker": "seen"}, "needs": ["good"], "retry": {"max_attempts": 1}},
    )
    page = opened(watched, server, run_id)
    expect(line(page, "bad")).to_have_class("line s-failed")

    page.get_by_role("button", name="Run the rest").click()

    expect(page.get_by_role("link", name=f"from {run_id}")).to_be_visible()
    expect(line(page, "bad")).to_have_class("line s-completed")


def test_a_run_is_paused_and_resumed(server: Server, watched: Watched, tmp_path: Path) -> None:
    marker = tmp_path / "go"
    run_id = server.submit(
        {"id": "wait", "tool": "until", "with": {"marker": str(marker)}},
        {"id": "after", "tool": "echo", "with": {"value": 1}, "needs": ["wait"]},
    )
    page = opened(watched, server, run_id)

    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".bar.run .state")).to_contain_text("paused")
    marker.touch()
    expect(line(page, "wait")).to_have_class("line s-completed")
    expect(line(page, "after")).to_have_class("line s-ready")
    page.get_by_role("button", name="Resume").click()

    expect(page.locator(".bar.run .state")).to_contain_text("success")


def test_with_tokens_the_page_asks_for_one_and_sends_it_with_every_request(
    watch: Callable[..., Watched], tmp_path: Path
) -> None:
    token = "0123456789abcdef-of-the-tests"
    digest = hashlib.sha256(token.encode()).hexdigest()
    scopes = '["read", "submit", "answer", "cancel"]'
    server = Server(tmp_path, settings=f'[server.tokens.ann]\nsha256 = "{digest}"\nscopes = {scopes}\n')
    server.token = token
    server.start()
    try:
        run_id = server.submit({"id": "review", "approve": {"message": "Is it good?"}})
        watched = watch(server)
        watched.allowed = ("401",)
        page = watched.page
        page.goto(f"{server.url}/#/runs/{run_id}")

        page.get_by_label("Token").fill("wrong-token-of-the-tests")
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_text("This server asks for a token")).to_be_visible()
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#link")).to_have_attribute("data-state", "live")
        page.get_by_role("button", name="Approve", exact=True).click()

        expect(page.locator(".bar.run .state")).to_contain_text("success")
        assert token not in page.content()
        assert token not in page.url
        page.close()
    finally:
        server.kill()

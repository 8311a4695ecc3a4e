from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from observe.pictured import (
    DIAMOND,
    EVIL,
    EVIL_IDS,
    MAPPED,
    MIXED,
    MIXED_RESULT,
    NESTED,
    plan_of,
    random_plan,
    run_result,
    step_result,
)
from planloom.core.result import RunResult, RunStatus
from planloom.errors import ConfigError
from planloom.observe.svg import graph_svg
from planloom.plan.model import Plan

SVG = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def step_element(root: ElementTree.Element, key: str) -> ElementTree.Element:
    return next(group for group in root.iter(f"{SVG}g") if group.get("data-step") == key)


def words_of(element: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in element.iter(f"{SVG}text")]


@pytest.mark.parametrize("plan", [DIAMOND, MIXED, MAPPED, NESTED, EVIL, Plan(), random_plan(60, span=10, degree=2)])
@pytest.mark.parametrize("theme", ["auto", "light", "dark"])
def test_every_picture_is_well_formed_xml_with_a_title_and_a_description(plan: Plan, theme: str) -> None:
    root = parsed(graph_svg(plan, theme=theme))

    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    labels = (root.get("aria-labelledby") or "").split()
    assert [element.get("id") for element in root[:2]] == labels
    assert root[0].tag == f"{SVG}title"
    assert root[1].tag == f"{SVG}desc"


def test_what_a_plan_brings_with_it_is_text_and_nothing_else() -> None:
    text = graph_svg(EVIL, run_result(step_result("]]>", "failed", error="<img onerror=alert(1)> ]]> \x07")))

    root = parsed(text)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "desc", "style", "defs", "symbol", "path", "marker", "rect", "text", "g", "use", "circle",
    }  # fmt: skip
    assert "<script" not in text
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]
    drawn = {group.get("data-step") for group in root.iter(f"{SVG}g")}
    assert {step_id for step_id in EVIL_IDS if step_id.isprintable()} <= drawn


def test_a_picture_fetches_nothing() -> None:
    root = parsed(graph_svg(MIXED, MIXED_RESULT))

    links = [value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")]
    assert links
    assert all(link.startswith("#pl-") for link in links)
    assert "url(http" not in graph_svg(MIXED)
    assert "@import" not in graph_svg(MIXED)


def test_a_status_is_told_by_word_and_symbol_and_not_by_colour_alone() -> None:
    root = parsed(graph_svg(MIXED, MIXED_RESULT))

    expected = {
        "done": "completed",
        "broken": "failed",
        "passed_by": "skipped",
        "busy": "running",
        "waiting": "pending",
    }
    for step_id, status in expected.items():
        element = step_element(root, step_id)
        symbols = [use.get("href") for use in element.iter(f"{SVG}use")]
        assert f"#pl-i-{status}" in symbols
        assert any(words.startswith(status) for words in words_of(element))


def test_time_cost_and_attempts_are_shown_where_there_is_a_result() -> None:
    root = parsed(graph_svg(MIXED, MIXED_RESULT))

    assert "completed · 32 ms" in words_of(step_element(root, "done"))
    assert "failed · 3.90 s · $0.03 · 3 attempts" in words_of(step_element(root, "broken"))


def test_a_conditional_edge_is_dashed_and_says_its_condition() -> None:
    root = parsed(graph_svg(MIXED))

    dashed = [path for path in root.iter(f"{SVG}path") if "pl-maybe" in (path.get("class") or "")]
    tips = [path[0].text for path in dashed if len(path)]
    assert tips == ["done → passed_by, if steps.done.output.n < 3"]


def test_a_map_shows_its_width_and_how_many_are_done_and_failed() -> None:
    stand = ["completed", "completed", "failed", "running", "pending"]
    items = tuple(step_result(f"each[{index}]", status) for index, status in enumerate(stand))
    result = run_result(step_result("each", "running", width=5, parts=items))

    words = words_of(step_element(parsed(graph_svg(MAPPED, result)), "each"))

    assert "for each of 5 items · 2 done · 1 failed" in words


def test_a_sub_plan_is_drawn_inside_its_box_with_its_own_statuses() -> None:
    result = run_result(step_result("inner", "running", parts=(step_result("inner/x", "completed"),)))

    inner = step_element(parsed(graph_svg(NESTED, result)), "inner")

    assert any(words.startswith("completed") for words in words_of(step_element(inner, "inner/x")))
    assert any(words.startswith("pending") for words in words_of(step_element(inner, "inner/y")))


def test_a_step_that_waits_for_a_person_says_so() -> None:
    result = run_result(step_result("a", "running", waiting="approval"), status=RunStatus.WAITING)

    assert "waits for a person" in words_of(step_element(parsed(graph_svg(DIAMOND, result)), "a"))


def test_auto_brings_dark_colours_and_the_others_do_not() -> None:
    assert "prefers-color-scheme:dark" in graph_svg(DIAMOND)
    assert "prefers-color-scheme" not in graph_svg(DIAMOND, theme="light")
    assert graph_svg(DIAMOND, theme="light") != graph_svg(DIAMOND, theme="dark")


def test_an_unknown_theme_is_refused() -> None:
    with pytest.raises(ConfigError, match="no theme 'drak'"):
        graph_svg(DIAMOND, theme="drak")


def test_five_hundred_steps_alike_are_drawn_as_one_box_with_counts() -> None:
    fan = plan_of(
        [{"id": "start", "tool": "a"}]
        + [{"id": f"w{index}", "tool": "t", "needs": ["start"]} for index in range(498)]
        + [{"id": "end", "tool": "b", "needs": [f"w{index}" for index in range(498)]}],
    )
    result = run_result(*(step_result(f"w{index}", "completed" if index < 490 else "failed") for index in range(498)))

    root = parsed(graph_svg(fan, result))

    assert sum("data-step" in group.attrib for group in root.iter(f"{SVG}g")) == 3
    assert "498 steps alike · 490 done · 8 failed" in words_of(step_element(root, "w0"))


def test_the_same_plan_and_result_give_the_same_picture() -> None:
    plan = random_plan(60, span=10, degree=2)

    assert graph_svg(plan) == graph_svg(plan)


@pytest.mark.slow
def test_five_hundred_different_steps_are_drawn_small_and_quickly() -> None:
    plan = random_plan(500, span=40, degree=2)
    result: RunResult = run_result(*(step_result(step.id, "completed") for step in plan.steps))

    root = parsed(graph_svg(plan, result))

    assert len([use for use in root.iter(f"{SVG}use") if use.get("href") == "#pl-i-completed"]) >= 400


@pytest.mark.timeout(20)
def test_a_name_of_a_million_characters_is_cut_in_no_time() -> None:
    text = graph_svg(plan_of([{"id": "a", "tool": "t"}], name="x" * 1_000_000))

    assert "…" in words_of(parsed(text))[0]

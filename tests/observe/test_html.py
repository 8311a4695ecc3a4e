from __future__ import annotations

import asyncio
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from observe.pictured import (
    DIAMOND,
    EVIL,
    EVIL_IDS,
    MAPPED,
    MIXED,
    MIXED_RESULT,
    NESTED,
    NOON,
    plan_of,
    random_plan,
    run_result,
    step_result,
)
from planloom import Engine, Plan, RunResult, RunStatus, StepResult, tool
from planloom.core.events import RunFinished
from planloom.core.machine import RunMachine
from planloom.core.report import run_result as told_of
from planloom.observe.html import MAX_ROWS, html_of, svg_of
from tests.journals import recording

EVIL_TEXT = "<img src=x onerror=alert(1)> ]]> </style></svg><script>alert(2)</script> \x07\x1b[31m \u202e \ud800 &amp;"
EVIL_STEP = step_result(
    EVIL_IDS[0],
    "failed",
    doer=EVIL_TEXT,
    kind="tool",
    error=EVIL_TEXT,
    output={EVIL_TEXT: [EVIL_TEXT]},
    metadata={EVIL_TEXT: 1},
    parts=(step_result(f"{EVIL_IDS[0]}[0]", "failed", error=EVIL_TEXT, output=EVIL_TEXT),),
    width=1,
)
EVIL_RESULT = RunResult(
    EVIL_TEXT, EVIL_TEXT, RunStatus.FAILED, [EVIL_TEXT], (EVIL_STEP,), error=EVIL_TEXT, full_plan=EVIL
)


class Page(HTMLParser):
    """What a browser would find in it: tags with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def __contains__(self, words: str) -> bool:
        return any(words in text for text in self.texts)


def page(value: Any) -> Page:
    text = value._repr_html_()
    assert isinstance(text, str)
    return Page(text)


@pytest.mark.parametrize(
    "value", [DIAMOND, MAPPED, NESTED, EVIL, MIXED_RESULT, EVIL_RESULT, EVIL_STEP, *MIXED_RESULT.steps], ids=range(12)
)
def test_what_is_shown_is_text_and_stands_alone(value: Plan | RunResult | StepResult) -> None:
    text = value._repr_html_() or ""
    found = Page(text)

    assert found.tags <= {
        "div", "style", "span", "b", "bdi", "p", "code", "pre", "details", "summary",
        "table", "thead", "tbody", "tr", "th", "td",
        "svg", "title", "desc", "defs", "symbol", "path", "marker", "rect", "text", "g", "use", "circle",
    }  # fmt: skip
    assert not {name for name in found.attributes if name.startswith("on") or name == "src"}
    assert "url(" not in text.replace("url(#pl-arrow)", "").replace("url(#pl-arrow-done)", "")
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    text.encode("utf-8")


def test_a_plan_shows_its_graph_its_steps_and_what_it_is_given() -> None:
    plan = Plan.from_dict(
        {
            "name": "report",
            "description": "What happened this week.",
            "inputs": {"week": {"type": "integer"}},
            "limits": {"max_tool_calls": 3},
            "steps": [{"id": "read", "tool": "t.read"}, {"id": "tell", "tool": "t.tell", "needs": ["read"]}],
        }
    )

    found = page(plan)

    assert "svg" in found.tags
    for words in ("report", "2 steps", "What happened this week.", "week (integer)", "max_tool_calls 3", "t.tell"):
        assert words in found, words


def test_a_run_shows_how_each_step_stands_and_what_went_wrong() -> None:
    found = page(RunResult(**fields(MIXED_RESULT, full_plan=MIXED, error="it broke", failed_step="broken")))

    for words in (
        "running",
        "✓ completed",
        "✗ failed",
        "32 ms",
        "$0.03",
        "condition false",
        "error: step broken: it broke",
    ):
        assert words in found, words
    assert found.texts.count("Timeline") == 1


def fields(result: RunResult, **changed: Any) -> dict[str, Any]:
    return {name: getattr(result, name) for name in RunResult.__dataclass_fields__} | changed


def test_a_result_of_the_engine_brings_the_plan_that_it_is_drawn_with() -> None:
    @tool(name="t.double", effects="none")
    def double(number: int) -> int:
        return 2 * number

    async def main() -> RunResult:
        async with Engine(tools=[double]) as engine:
            step = {"id": "twice", "tool": "t.double", "with": {"number": 21}}
            return await engine.run({"planloom": 1, "name": "one", "steps": [step]})

    result = asyncio.run(main())

    assert 'class="pl-step pl-completed" data-step="twice"' in (result._repr_svg_() or "")
    assert "completed" in page(result)
    assert "42" in page(result)
    assert "full_plan" not in result.to_dict()


def test_a_run_that_waits_says_how_it_goes_on() -> None:
    asked = step_result("ok", "ready", waiting="approval", kind="approve", doer="approve")

    assert "planloom approve run-1 ok" in page(run_result(asked, status=RunStatus.WAITING))


def test_a_step_shows_its_error_or_its_output_and_its_items() -> None:
    each = step_result("each", "completed", output=[1, {"two": 2}], width=2, parts=(item(0), item(1)))

    found = page(each)

    assert '"two": 2' in "".join(found.texts)
    assert "each[1]" in found
    assert "ValueError: no" in page(step_result("bad", "failed", error="ValueError: no"))
    assert 'data-step="each"' in (each._repr_svg_() or "")


def item(index: int) -> StepResult:
    return step_result(f"each[{index}]", "completed", attempts=1, started_at=NOON, ended_at=NOON + 1)


@pytest.mark.parametrize("value", [DIAMOND, NESTED, EVIL, MIXED_RESULT, EVIL_RESULT, EVIL_STEP], ids=range(6))
def test_the_picture_alone_is_well_formed_svg(value: Plan | RunResult | StepResult) -> None:
    assert ElementTree.fromstring(value._repr_svg_() or "").tag == "{http://www.w3.org/2000/svg}svg"


def test_a_plan_with_mistakes_is_told_and_not_drawn() -> None:
    circle = plan_of([{"id": "a", "tool": "t", "needs": ["b"]}, {"id": "b", "tool": "t", "needs": ["a"]}])

    assert "not drawn: " in page(circle)
    assert circle._repr_svg_() is None


def test_a_plan_without_steps_is_a_line() -> None:
    assert "0 steps" in page(Plan())
    assert Plan()._repr_svg_() is None
    assert run_result()._repr_svg_() is None


@pytest.mark.slow
def test_steps_alike_are_drawn_as_one_and_what_cannot_be_drawn_is_a_command() -> None:
    fan = plan_of([{"id": "a", "tool": "t"}, *({"id": f"s{n}", "tool": "t", "needs": ["a"]} for n in range(5_000))])
    tangle = random_plan(2_000, span=50, degree=3)

    assert "5000 steps alike" in page(fan)
    assert "2,000 steps, too many to be drawn here: " in page(tangle)
    assert tangle._repr_svg_() is None


@pytest.mark.slow
def test_nothing_that_is_shown_grows_without_bound() -> None:
    long = "x" * 2_000_000
    steps = [step_result(f"s{n}", "completed", output=long, error=long, started_at=NOON) for n in range(2_000)]
    sub = {"name": long, "steps": [{"id": f"i{n}", "tool": "t"} for n in range(40)]}
    nested = plan_of([{"id": f"s{n}", "plan": sub, "description": long} for n in range(200)])
    result = RunResult("r", long, RunStatus.FAILED, [long] * 5, steps, error=long, full_plan=nested)

    shown = [value._repr_html_() or "" for value in (nested, result, steps[0])]

    assert max(map(len, shown)) < 1_500_000
    assert len(result._repr_svg_() or "") < 1_000_000


def test_a_table_without_room_for_all_steps_shows_those_in_trouble() -> None:
    steps = [step_result(f"s{n}", "completed") for n in range(2 * MAX_ROWS)]
    steps.append(step_result("late", "failed", error="boom"))

    found = page(run_result(*steps))

    assert "late" in found.texts
    assert f"and {MAX_ROWS + 1} steps more" in found


@pytest.mark.slow
def test_every_recorded_run_can_be_shown_wherever_it_stood() -> None:
    for path in sorted(Path(recording.__file__).parent.glob("v*/*.jsonl")):
        machine = RunMachine("r")
        for place, entry in enumerate(recording.read(path)):
            machine.replay((entry.event,))
            if place % 200 == 20 or isinstance(entry.event, RunFinished):
                result = told_of(machine.state, waiting=machine.waits_for_person)
                ElementTree.fromstring(result._repr_svg_() or "<svg/>")
                assert result.run_id in page(result)
                assert all(step.id in page(step) for step in result.steps[:5])


def test_what_is_neither_plan_nor_result_is_not_shown() -> None:
    assert html_of(object()) is None
    assert svg_of("text") is None


@pytest.mark.slow
def test_a_notebook_shows_them_and_an_import_pays_nothing_for_it() -> None:
    script = """
import sys
import planloom
plan = planloom.Plan.from_dict({"name": "p", "steps": [{"id": "a", "tool": "t"}]})
assert "planloom.observe.html" not in sys.modules

from IPython.core.formatters import DisplayFormatter

shown, _ = DisplayFormatter().format(plan)
assert set(shown) == {"text/plain", "text/html", "image/svg+xml"}, shown.keys()
assert 'data-step="a"' in shown["text/html"]
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr

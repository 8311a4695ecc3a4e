"""What the page draws of a run, worked out from its record."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from planloom import Engine, tool
from planloom.core.chat import ModelCall
from planloom.models.scripted import FunctionModel
from planloom.plan.load import load_plan
from planloom.runtime.reading import read_run
from planloom.server.view import RunView, view_of

tries: list[int] = []


@tool(effects="none")
def add(x: int) -> int:
    """Return one more."""
    return x + 1


@tool(effects="none")
def second_time(x: int) -> int:
    """Fail at first."""
    tries.append(x)
    if len(tries) % 2:
        raise ConnectionError("not yet")
    return x


def seen(plan: dict[str, Any], *, known: str = "") -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        async with Engine(tools=[add, second_time]) as engine:
            result = await engine.run(load_plan({"planloom": 1, "name": "seen", **plan}))
            return view_of(await read_run(engine.journal, result.run_id), known=known)

    view = asyncio.run(main())
    RunView.model_validate(view, strict=False)
    json.dumps(view, allow_nan=False)
    return view


def test_a_view_has_picture_rows_totals_and_budget() -> None:
    plan = {
        "limits": {"max_tool_calls": 7},
        "steps": [{"id": "a", "tool": "add", "with": {"x": 1}}, {"id": "b", "tool": "add", "with": {"x": 2}}],
    }

    view = seen(plan)

    assert 'data-step="a"' in view["graph"]["svg"]
    assert [(row["step"], row["status"], len(row["bars"])) for row in view["rows"]] == [
        ("a", "completed", 1),
        ("b", "completed", 1),
    ]
    assert view["totals"]["by_status"] == {"completed": 2}
    calls = next(one for one in view["budget"] if one["name"] == "max_tool_calls")
    assert (calls["limit"], calls["used"], calls["reserved"]) == (7, 2, 0)


def test_each_attempt_of_a_retried_step_is_a_bar() -> None:
    tries.clear()
    step = {"id": "a", "tool": "second_time", "with": {"x": 1}, "retry": {"max_attempts": 2, "initial_delay": 0}}

    view = seen({"steps": [step]})

    assert [(bar["attempt"], bar["status"]) for bar in view["rows"][0]["bars"]] == [(1, "failed"), (2, "completed")]
    assert view["totals"]["retries"] == 1


def test_the_items_of_a_map_say_what_they_are_a_part_of() -> None:
    step = {"id": "each", "tool": "add", "for_each": [1, 2], "with": {"x": "${{ item }}"}}

    view = seen({"steps": [step]})

    assert {row["step"]: row["parent"] for row in view["rows"]} == {"each": "", "each[0]": "each", "each[1]": "each"}


def test_what_ran_ahead_stands_once_where_it_ran_with_what_came_of_it() -> None:
    async def main() -> dict[str, Any]:
        answered = asyncio.Event()

        async def strong(call: ModelCall) -> str:
            await answered.wait()
            return "north"

        @tool(effects="none")
        async def look(text: str) -> str:
            """Let the answer come once this has run ahead on the draft."""
            asyncio.get_running_loop().call_soon(answered.set)
            return text

        models = {"strong": FunctionModel(strong), "weak": FunctionModel(lambda call: "north")}
        steps = [
            {"id": "first", "model": "strong", "prompt": "Where?", "speculate": {"draft": "weak", "policy": "compare"}},
            {"id": "next", "tool": "look", "with": {"text": "${{ steps.first.output }}"}},
        ]
        async with Engine(tools=[look], models=models) as engine:
            run = await engine.run(load_plan({"planloom": 1, "name": "seen", "steps": steps}))
            return view_of(await read_run(engine.journal, run.run_id))

    view = asyncio.run(main())

    bars = {row["step"]: [(bar["lane"], bar["outcome"]) for bar in row["bars"]] for row in view["rows"]}
    assert sorted(bars["first"]) == [("", ""), ("draft", "spent")]
    assert bars["next"] == [("ahead", "confirmed")]
    words = next(row for row in view["rows"] if row["step"] == "next")["bars"][0]["words"]
    assert words.startswith("next, attempt 1: ran ahead, on values not yet confirmed, completed")
    assert words.endswith(", confirmed")


def test_a_step_that_waits_for_a_person_is_a_question_and_those_behind_it_are_rows_without_bars() -> None:
    after = {"id": "b", "tool": "add", "needs": ["ask"], "with": {"x": 1}}
    steps = [{"id": "ask", "approve": {"message": "Well?"}}, after]

    view = seen({"steps": steps})

    assert [one["step"] for one in view["questions"]] == ["ask"]
    assert [(row["step"], row["status"]) for row in view["rows"]] == [("ask", "blocked"), ("b", "pending")]
    assert view["rows"][1]["bars"] == []
    assert not view["run"]["ended"]


def test_a_picture_that_the_page_has_is_not_sent_again() -> None:
    async def main() -> tuple[dict[str, Any], dict[str, Any]]:
        async with Engine(tools=[add]) as engine:
            plan = load_plan({"planloom": 1, "name": "p", "steps": [{"id": "a", "tool": "add", "with": {"x": 1}}]})
            run = await read_run(engine.journal, (await engine.run(plan)).run_id)
            first = view_of(run)
            return first, view_of(run, known=first["graph"]["hash"])

    first, again = asyncio.run(main())

    assert first["graph"]["svg"] is not None
    assert again["graph"] == {**first["graph"], "svg": None}


def test_a_wide_plan_is_grouped_and_says_which_steps_are_behind_a_box() -> None:
    steps: list[dict[str, Any]] = [{"id": "first", "tool": "add", "with": {"x": 1}}]
    steps += [{"id": f"s{n}", "tool": "add", "with": {"x": 1}, "needs": ["first"]} for n in range(400)]

    view = seen({"steps": steps})

    assert list(view["graph"]["groups"]) == ["s0"]
    assert len(view["graph"]["groups"]["s0"]) == 400
    assert view["graph"]["svg"].count("data-step=") == 2
    assert len(view["rows"]) == 401


def test_errors_that_are_secret_are_in_no_part_of_a_view() -> None:
    @tool(effects="none", secret=True)
    def fetch(name: str) -> str:
        """Return what nobody may see."""
        return "canary-71c2"

    @tool(effects="none")
    def fail(text: str) -> str:
        """Say it in an error."""
        raise ValueError(f"cannot use {text}")

    async def main() -> dict[str, Any]:
        async with Engine(tools=[fetch, fail]) as engine:
            steps = [
                {"id": "fetch", "tool": "fetch", "with": {"name": "x"}},
                {"id": "fail", "tool": "fail", "with": {"text": "${{ steps.fetch.output }}"}},
            ]
            result = await engine.run(load_plan({"planloom": 1, "name": "p", "steps": steps}))
            return view_of(await read_run(engine.journal, result.run_id))

    view = asyncio.run(main())

    assert "canary-71c2" not in json.dumps(view)

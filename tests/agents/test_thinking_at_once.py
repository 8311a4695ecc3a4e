"""Tools of one plan that are called at once, and those that never are: the history is the same either way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import Engine, Reasoner, ResourceLimits, RunResult, ToolRegistry
from planloom.core.events import CallEnded
from planloom.core.result import RunStatus
from planloom.journal.memory import MemoryJournal
from planloom.testing.models import ScriptedModel
from planloom.tools.tool import Tool

DONE = {"is_complete": True, "answer": "done"}
STEP = {"id": "s", "agent": "looker", "prompt": "look"}


class Look:
    """A tool that shows how many of its calls are under way."""

    def __init__(self, effects: str = "none", cost_usd: float | None = None) -> None:
        self.under_way = self.most = self.calls = 0
        self.tool = Tool.from_function(self.look, name="look", effects=effects, cost_per_call=cost_usd)

    async def look(self, at: int) -> int:
        """Look at something."""
        self.calls += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        for _ in range(10 - at):  # the first one takes longest
            await asyncio.sleep(0)
        self.under_way -= 1
        if at == 2:
            raise ValueError("nothing to see")
        return at * 10


def planned(count: int, independent: Any = True, tool: str | None = "look") -> dict[str, Any]:
    tasks = [{"description": f"look at {at}", "tool_name": "look"} for at in range(count - 1)]
    last = {"description": "the last", "tool_name": tool}
    return {"has_sufficient_info": True, "tasks": [*tasks, last], "independent": independent}


def run(look: Look, plan: dict[str, Any], count: int, journal: Any = None, **limits: Any) -> RunResult:
    said = [{"at": at} for at in range(count)] if plan["tasks"][-1]["tool_name"] else [{"at": 0}, {"at": 1}, "said"]
    model = ScriptedModel([plan, *said, DONE])
    agent = Reasoner(name="looker", model=model, tools=ToolRegistry([look.tool]))
    unlimited: dict[str, Any] = dict.fromkeys(ResourceLimits.model_fields)

    async def main() -> RunResult:
        async with Engine(journal, tools=(), agents=[agent]) as engine:
            document = {"planloom": 1, "name": "p", "steps": [STEP]}
            return await engine.run(document, run_id="r", limits=ResourceLimits(**unlimited | limits))

    return asyncio.run(main())


def history(result: RunResult) -> list[tuple[Any, ...]]:
    metadata = result.step("s").metadata
    assert metadata is not None
    return [(one["task"], one["arguments"], one["status"], one["result"]) for one in metadata["execution_history"]]


def test_tools_of_tasks_that_need_nothing_of_each_other_are_called_at_once() -> None:
    look, one_by_one = Look(), Look()

    result = run(look, planned(4), 4)

    assert look.most == 4
    assert history(result) == history(run(one_by_one, planned(4, independent=False), 4))
    assert [status for _, _, status, _ in history(result)] == ["completed", "completed", "failed", "completed"]
    assert one_by_one.most == 1


@pytest.mark.parametrize(
    ("look", "plan"),
    [
        (Look("once"), planned(3)),
        (Look("idempotent"), planned(3)),
        (Look(cost_usd=0.1), planned(3)),
        (Look(), planned(3, independent=None)),
        (Look(), planned(3, tool=None)),
    ],
    ids=["once", "idempotent", "paid", "not said", "one without a tool"],
)
def test_all_others_are_done_one_after_the_other(look: Look, plan: dict[str, Any]) -> None:
    result = run(look, plan, 3)

    assert result.status is RunStatus.SUCCESS
    assert look.most == 1


def test_calls_at_once_never_pass_what_was_granted() -> None:
    look = Look()

    result = run(look, planned(6), 6, max_tool_calls=3)

    assert result.status is RunStatus.LIMIT_EXCEEDED
    assert look.calls == result.tool_calls == 3


def test_each_call_at_once_has_the_key_that_it_has_alone() -> None:
    journals = [MemoryJournal(), MemoryJournal()]

    for journal, independent in zip(journals, (True, False), strict=True):
        run(Look(), planned(4, independent=independent), 4, journal)

    async def keys(journal: MemoryJournal) -> set[str]:
        ended = [one.event for one in await journal.read("r") if isinstance(one.event, CallEnded)]
        return {one.key for one in ended if one.kind == "tool"}

    at_once, one_by_one = (asyncio.run(keys(journal)) for journal in journals)
    assert at_once == one_by_one
    assert len(at_once) == 4

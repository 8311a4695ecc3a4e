"""An agent's result while it comes: what is sure to be the result is streamed, and nothing else ever is."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom import Engine, Reasoner, ToolRegistry
from planloom.core.events import OutputStreamed
from planloom.journal.memory import MemoryJournal
from planloom.testing.models import ScriptedModel
from planloom.tools.tool import Tool

LONG = "In the end there were two of them, and both were well."
TWO = {"has_sufficient_info": True, "tasks": [{"description": "a", "tool_name": "look"}, {"description": "b"}]}
ONE = {"has_sufficient_info": True, "tasks": [{"description": "b"}]}


def look() -> str:
    """Look."""
    return "two"


def pieces_of(answers: list[Any], **fields: Any) -> tuple[list[str], Any]:
    tools = ToolRegistry([Tool.from_function(look, effects="none")])
    agent = Reasoner(name="teller", model=ScriptedModel(answers), tools=tools, **fields)
    step = {"id": "s", "agent": "teller", "prompt": "Tell me.", "stream": True}

    async def main() -> tuple[list[str], Any]:
        journal = MemoryJournal()
        async with Engine(journal, tools=(), agents=[agent]) as engine:
            result = await engine.run({"planloom": 1, "name": "p", "steps": [step]}, run_id="r")
        events = [one.event for one in await journal.read("r")]
        return [one.text for one in events if isinstance(one, OutputStreamed)], result.output

    return asyncio.run(main())


def test_what_the_model_makes_of_several_results_comes_in_pieces() -> None:
    pieces, output = pieces_of([TWO, {}, "well", {"is_complete": True}, LONG])

    assert len(pieces) > 3
    assert "".join(pieces) == output == LONG


@pytest.mark.parametrize(
    "answers",
    [[TWO, {}, "well", {"is_complete": True, "answer": LONG}], [ONE, LONG, {"is_complete": True}]],
    ids=["an answer that the check gave", "the result of its only task"],
)
def test_what_turns_out_to_be_the_result_comes_whole(answers: list[Any]) -> None:
    pieces, output = pieces_of(answers)

    assert pieces == [output] == [LONG]


def test_a_value_is_not_streamed() -> None:
    pieces, output = pieces_of(
        [TWO, {}, "well", {"is_complete": True}, {"n": 2}], output_schema={"type": "object", "required": ["n"]}
    )

    assert pieces == []
    assert output == {"n": 2}

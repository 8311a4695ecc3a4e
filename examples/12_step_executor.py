"""Single steps of agents and tools: retried, kept, streamed, side by side, and told again from the record."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from planloom import AgentMemory, CachedStepExecutor, FormatValidator, MemoryJournal, Message, RetryConfig, tool

JOURNAL = MemoryJournal()


class Planner:
    """Fails once, then plans."""

    effects = "none"  # asking it again changes nothing

    def __init__(self) -> None:
        self.asked = 0

    async def run_step(self, request: str, context: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        if self.asked == 1:
            raise ConnectionError("the line was busy")
        told = [message.content for message in context["memory"].messages]
        return {"next_action": "search", "plan": [request], "told": told}


class Reader:
    """Answers word by word."""

    async def stream_step(self, request: str, context: dict[str, Any]) -> AsyncIterator[str]:
        for word in request.split():
            yield f"{word} "


@tool(effects="none")
def search(query: str) -> str:
    """Return what is known of a query."""
    return f"three papers on {query}"


async def main() -> None:
    planner = Planner()
    memory = AgentMemory([Message("user", "What is new in batteries?")])
    retry = RetryConfig(max_attempts=3, initial_delay=0.01)

    async with CachedStepExecutor({"Planner": planner, "Reader": Reader()}, retry, journal=JOURNAL) as executor:
        executor.register_tool("search", search)

        plan = await executor.execute_agent_step("Planner", "look it up", memory, {"from_agent": "Desk"})
        again = await executor.execute_agent_step("Planner", "look it up", memory, {"from_agent": "Desk"})
        verdict = await FormatValidator().validate(plan, expected_format={"next_action": str, "plan": list})

        found, wrong = await executor.execute_tool_calls(
            [{"name": "search", "arguments": '{"query": "batteries"}'}, {"name": "serch", "arguments": {}}]
        )
        unknown = await executor.execute_agent_step("Plannr", "look it up", memory)
        pieces = [piece async for piece in executor.stream_agent_step("Reader", "solid state cells")]
        answers = await executor.execute_batch(
            [{"agent_name": "Planner", "request": f"topic {n}"} for n in range(20)], max_concurrent=4
        )
        first = (await executor.journal.runs())[-1]
        told = await executor.replay(first.run_id)

    print(plan["told"][-1], "->", plan["next_action"], verdict.feedback)
    print(found["result"], "|", wrong["error"].splitlines()[-1].strip(), "|", unknown["suggestions"])
    assert plan == again
    assert verdict.is_valid
    assert found["error"] is None
    assert unknown["error_type"] == "agent_not_found"
    assert "".join(pieces) == "solid state cells "
    assert [answer["plan"] for answer in answers] == [[f"topic {n}"] for n in range(20)]
    assert planner.asked == 1 + 1 + 20  # one failure, one answer that was kept, twenty more
    assert len(memory) == 1  # what an agent is told besides is its own
    assert told.result.steps[0].output == plan
    assert told.divergence is None


if __name__ == "__main__":
    asyncio.run(main())

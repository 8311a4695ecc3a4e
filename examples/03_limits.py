"""A limit is reserved before a step starts: four calls are allowed, so four are made, and what they did is kept."""

import asyncio

from planloom import ResourceLimits, execute_plan, tool

calls: list[int] = []


@tool(name="demo.square", effects="none")
def square(number: int) -> int:
    """Return the number times itself."""
    calls.append(number)
    return number * number


PLAN = {
    "planloom": 1,
    "name": "limits",
    "steps": [{"id": f"square_{n}", "tool": "demo.square", "with": {"number": n}} for n in range(1, 11)],
}


async def main() -> None:
    result = await execute_plan(PLAN, tools=[square], limits=ResourceLimits(max_tool_calls=4, max_concurrent=2))

    print(result["status"], result["exceeded_limits"], f"after {len(calls)} calls")
    assert len(calls) == 4
    assert result["status"] == "limit_exceeded"
    assert result["exceeded_limits"] == ["max_tool_calls"]
    assert sum(step["status"] == "completed" for step in result["steps"]) == 4
    assert sum(step.get("skip_reason") == "not_started" for step in result["steps"]) == 6


if __name__ == "__main__":
    asyncio.run(main())

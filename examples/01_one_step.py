"""One step: a function becomes a tool, and a plan calls it."""

import asyncio

from planloom import execute_plan, tool


@tool(name="demo.greet", effects="none")
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello, {name}!"


PLAN = {
    "planloom": 1,
    "name": "one-step",
    "inputs": {"name": {"type": "string"}},
    "steps": [{"id": "greet", "tool": "demo.greet", "with": {"name": "${{ inputs.name }}"}}],
}


async def main() -> None:
    result = await execute_plan(PLAN, tools=[greet], context={"name": "Ada"})

    print(result["status"], "·", result["result"])
    assert result["status"] == "success"
    assert result["result"] == "Hello, Ada!"


if __name__ == "__main__":
    asyncio.run(main())

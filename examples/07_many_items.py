"""A map over many items: each is a step of its own, and one that fails costs only itself."""

import asyncio

from planloom import execute_plan, tool


@tool(name="demo.invert", effects="none")
def invert(number: int) -> float:
    """Return one divided by the number."""
    return 1 / number


PLAN = """
planloom: 1
name: many-items
inputs: {numbers: {type: array}}
steps:
  - id: invert
    tool: demo.invert
    for_each: "${{ inputs.numbers }}"
    on_item_error: collect
    max_parallel: 8
    with: {number: "${{ item }}"}
"""


async def main() -> None:
    result = await execute_plan(PLAN, tools=[invert], context={"numbers": [4, 0, 2, 1]})

    print(result["status"], result["result"], result["steps"][0]["errors"])
    assert result["status"] == "partial"
    assert result["result"] == [0.25, None, 0.5, 1.0]
    assert [error["index"] for error in result["steps"][0]["errors"]] == [1]


if __name__ == "__main__":
    asyncio.run(main())

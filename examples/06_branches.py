"""A condition picks a branch; the join takes whichever ran; what was skipped says why."""

import asyncio

from planloom import execute_plan, tool


@tool(name="demo.say", effects="none")
def say(text: str) -> str:
    """Return the text."""
    return text


PLAN = """
planloom: 1
name: branches
inputs: {total: {type: number}}
steps:
  - {id: large, tool: demo.say, when: "${{ inputs.total > 100 }}", with: {text: ask the boss}}
  - {id: small, tool: demo.say, when: "${{ inputs.total <= 100 }}", with: {text: pay}}
  - id: either
    tool: demo.say
    join: none_failed_min_one_success
    needs: [large, small]
    with: {text: "${{ default(steps.large.output, steps.small.output) }}"}
"""


async def main() -> None:
    for total, expected, skipped in ((7, "pay", "large"), (700, "ask the boss", "small")):
        result = await execute_plan(PLAN, tools=[say], context={"total": total})

        steps = {step["id"]: step for step in result["steps"]}
        print(total, "→", result["result"], f"({skipped} skipped: {steps[skipped]['skip_reason']})")
        assert result["result"] == expected
        assert steps[skipped]["skip_reason"] == "condition_false"


if __name__ == "__main__":
    asyncio.run(main())

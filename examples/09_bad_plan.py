"""A plan is checked whole before anything happens: every problem at once, each with its place and a remedy."""

import asyncio

from planloom import PlanError, execute_plan, tool

calls: list[str] = []


@tool(name="demo.send", effects="once")
def send(to: str) -> str:
    """Count how often it was called."""
    calls.append(to)
    return to


PLAN = """
planloom: 1
name: bad
steps:
  - id: first
    tool: demo.send
    with: {to: somebody}
  - id: second
    tool: demo.sned
    with: {to: "${{ steps.first.output }}"}
  - id: third
    tool: demo.send
    with: {too: somebody}
"""


async def main() -> None:
    try:
        await execute_plan(PLAN, tools=[send])
    except PlanError as error:
        print(error)
        problems = error.problems
    else:
        raise AssertionError("a broken plan ran")

    assert calls == []
    assert {problem.code for problem in problems} == {"plan.unknown_tool", "plan.arguments"}
    assert all(problem.where and problem.remedy for problem in problems)


if __name__ == "__main__":
    asyncio.run(main())

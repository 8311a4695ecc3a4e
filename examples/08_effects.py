"""Three words decide what may be repeated. A `once` tool is retried only on its own word that nothing has happened."""

import asyncio

from planloom import NotDoneError, ToolExecutionError, execute_plan, tool

attempts: list[str] = []


@tool(name="door.open", effects="once")
def open_door(door: str) -> str:
    """Open a door; the first try finds it locked."""
    attempts.append(door)
    if door == "front" and attempts.count("front") == 1:
        raise NotDoneError("locked: nothing has moved")
    if door == "back":
        raise ConnectionError("the line went dead; who knows whether it opened")
    return f"{door} is open"


def plan(door: str) -> dict[str, object]:
    retry = {"max_attempts": 3, "initial_delay": 0, "jitter": False}
    step = {"id": "open", "tool": "door.open", "with": {"door": door}, "retry": retry}
    return {"planloom": 1, "name": f"open-{door}", "steps": [step]}


async def main() -> None:
    result = await execute_plan(plan("front"), tools=[open_door])
    assert result["result"] == "front is open"

    try:
        await execute_plan(plan("back"), tools=[open_door])
    except ToolExecutionError as error:
        print(error)

    print(attempts)
    assert attempts == ["front", "front", "back"]


if __name__ == "__main__":
    asyncio.run(main())

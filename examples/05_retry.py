"""A step that fails is tried again, with a wait that doubles; what cannot be mended is not tried again."""

import asyncio

from planloom import ToolExecutionError, execute_plan, tool

calls = {"flaky": 0, "broken": 0}


@tool(name="demo.flaky", effects="none")
def flaky() -> str:
    """Fail twice, then work."""
    calls["flaky"] += 1
    if calls["flaky"] < 3:
        raise ConnectionError("the other side hung up")
    return "there"


@tool(name="demo.broken", effects="none")
def broken() -> str:
    """Always fail in a way that no second call mends."""
    calls["broken"] += 1
    raise TypeError("written wrongly")


def plan(name: str) -> dict[str, object]:
    retry = {"max_attempts": 3, "initial_delay": 0.01, "jitter": False}
    return {"planloom": 1, "name": name, "steps": [{"id": "call", "tool": f"demo.{name}", "retry": retry}]}


async def main() -> None:
    result = await execute_plan(plan("flaky"), tools=[flaky, broken])
    assert result["result"] == "there"
    assert result["steps"][0]["attempts"] == 3

    try:
        await execute_plan(plan("broken"), tools=[flaky, broken])
    except ToolExecutionError as error:
        print(error)
        assert error.step_id == "call"
        assert error.tool_name == "demo.broken"
    else:
        raise AssertionError("a broken tool was taken for a working one")

    print(calls)
    assert calls == {"flaky": 3, "broken": 1}


if __name__ == "__main__":
    asyncio.run(main())

"""One engine, many runs: a hundred at once in one journal, each followed or looked up by its name afterwards."""

import asyncio

from planloom import Engine, RunStatus, load_plan, tool


@tool(name="demo.half", effects="none")
def half(number: float) -> float:
    """Return half of a number."""
    return number / 2


PLAN = load_plan("""
planloom: 1
name: engine
inputs: {number: {type: integer}}
steps:
  - {id: half, tool: demo.half, with: {number: "${{ inputs.number }}"}}
  - {id: quarter, tool: demo.half, with: {number: "${{ steps.half.output }}"}}
outputs: "${{ steps.quarter.output }}"
""")


async def main() -> None:
    async with Engine(tools=[half]) as engine:
        runs = [await engine.start(PLAN, {"number": 4 * n}, run_id=f"run-{n}") for n in range(100)]
        results = [await run.result() for run in runs]
        record = [type(entry.event).__name__ async for entry in engine.follow("run-7")]
        again = await engine.result_of("run-7")

    print(f"{len(results)} runs; the record of run-7: {', '.join(record)}")
    assert all(result.status is RunStatus.SUCCESS for result in results)
    assert [result.output for result in results] == [float(n) for n in range(100)]
    assert record[0] == "RunStarted"
    assert record[-1] == "RunFinished"
    assert again.output == 7.0


if __name__ == "__main__":
    asyncio.run(main())

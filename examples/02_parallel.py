"""Steps that do not need each other run side by side; a step starts the moment what it needs is there.

fetch_a ──┐
          ├── merge          slow and fetch_a/merge overlap: nobody waits for a "level" to finish
fetch_b ──┘
slow
"""

import asyncio

from planloom import execute_plan, tool

under_way: set[str] = set()
seen_at_once: list[int] = []


@tool(name="demo.fetch", effects="none")
async def fetch(source: str, seconds: float) -> list[str]:
    """Pretend to fetch from somewhere."""
    under_way.add(source)
    seen_at_once.append(len(under_way))
    await asyncio.sleep(seconds)
    under_way.remove(source)
    return [f"{source}{number}" for number in range(3)]


@tool(name="demo.merge", effects="none")
def merge(left: list[str], right: list[str]) -> list[str]:
    """Put two lists together."""
    return sorted(left + right)


PLAN = """
planloom: 1
name: parallel
steps:
  - {id: fetch_a, tool: demo.fetch, with: {source: a, seconds: 0.1}}
  - {id: fetch_b, tool: demo.fetch, with: {source: b, seconds: 0.1}}
  - {id: slow, tool: demo.fetch, with: {source: s, seconds: 0.3}}
  - id: merge
    tool: demo.merge
    with: {left: "${{ steps.fetch_a.output }}", right: "${{ steps.fetch_b.output }}"}
outputs: "${{ steps.merge.output }}"
"""


async def main() -> None:
    result = await execute_plan(PLAN, tools=[fetch, merge])

    print(f"{max(seen_at_once)} at once, {result['latency_ms']:.0f} ms instead of 500 one after the other")
    assert result["result"] == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert max(seen_at_once) == 3
    assert result["latency_ms"] < 450


if __name__ == "__main__":
    asyncio.run(main())

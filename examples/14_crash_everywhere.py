"""A plan stopped at every point where it can be stopped: what a tool that is not what it declares to be does then."""

import asyncio

from planloom import load_plan, tool
from planloom.testing import CrashWorld, crash_everywhere

PLAN = load_plan("""
planloom: 1
name: tickets
steps:
  - {id: open, tool: desk.open, with: {title: "Printer on fire"}}
  - {id: note, tool: desk.note, needs: [open], with: {text: "Seen."}}
""")


def world(effects: str) -> CrashWorld:
    """Return a desk whose tool `desk.open` opens another ticket at every call, whatever it declares."""
    tickets: list[str] = []

    @tool(name="desk.open", effects=effects, register=False)
    def open_ticket(title: str) -> str:
        tickets.append(title)
        return "opened"

    @tool(name="desk.note", effects="none", register=False)
    def note(text: str) -> str:
        return text

    return CrashWorld(tools=[open_ticket, note], look=lambda: tickets)


async def main() -> None:
    wrong = await crash_everywhere(PLAN, lambda: world("idempotent"))
    right = await crash_everywhere(PLAN, lambda: world("once"))

    print(wrong)
    print(right.summary())
    right.check()
    assert "['Printer on fire', 'Printer on fire']" in str(wrong)
    assert right.unknown > 0, "a person was asked instead"


if __name__ == "__main__":
    asyncio.run(main())

"""An Execution Agent: programs of two modules, each with its own tools, on one bus that says what led to what."""

import asyncio

from planloom import Event, EventBus, ExecutionAgent, Module, NotAllowedError, SlotPool, parse_plan, tool

MAILS: list[tuple[list[str], str]] = []


@tool(name="contacts.all", effects="none")
def contacts() -> list[str]:
    """Return everybody's address."""
    return ["ada@example.org", "grace@example.org"]


@tool(name="mail.compose", effects="none")
def compose(text: str) -> str:
    """Return a message."""
    return f"{text}\n"


@tool(name="mail.send", effects="idempotent")
def send(to: list[str], text: str) -> int:
    """Send a message; return to how many."""
    MAILS.append((to, text))
    return len(to)


@tool(name="users.passwords", effects="none")
def passwords() -> dict[str, str]:
    """Return what a mailer has no business with."""
    raise AssertionError("this was never to be called")


HELLO = parse_plan("""
Send an email to all my contacts that says "Hello World!":
a. Get all contacts [contacts.all]
b. Compose Email message: "Hello World!" [mail.compose text="Hello World!"]
c. Send emails (requires steps a and b) [mail.send to=a text=b]
""")
CURIOUS = parse_plan("a. Look at passwords [tools.users.passwords]")
MODULES = [Module("mailer", allow={"contacts.all", "mail.*"}), Module("admin", allow={"users.passwords"})]


async def main() -> None:
    denials: list[Event] = []

    async def hear(event: Event) -> None:
        denials.append(event)

    tools = [contacts, compose, send, passwords]
    async with EventBus() as bus, ExecutionAgent(bus, SlotPool(1, 4), tools=tools, modules=MODULES) as agent:
        bus.listen(hear, "planloom.tool.denied")
        steps = bus.subscribe("planloom.step.*", "hello")
        program = await agent.submit(HELLO, module="mailer", run_id="hello")
        result = await program
        why = await agent.explain("hello", "c")
        try:
            await agent.submit(CURIOUS, module="mailer")
        except NotAllowedError as error:
            print(error)
        steps.close()
        told = [f"{event.type.rpartition('.')[2]} {event.subject}" async for event in steps]

    print(", ".join(told))
    print(why)
    assert result.output == 2
    assert MAILS == [(["ada@example.org", "grace@example.org"], "Hello World!\n")]
    assert told[-3:] == ["requested c", "started c", "completed c"]
    assert [link.step for link in why.chain] in (["c", "c", "a", "a", ""], ["c", "c", "b", "b", ""])
    assert [(event.data["who"]["module"], event.data["what"]) for event in denials] == [("mailer", "users.passwords")]


if __name__ == "__main__":
    asyncio.run(main())

"""Runs on record as text, one event a line: what today's planloom wrote, kept so that every later one must read it.

`python -m tests.journals.recording FOLDER` records anew every shape of the crash tests, undisturbed and with a power
cut in the middle, runs that ask models, a run that is cancelled, and one so wide that its first turn is cut; with names
after the folder, only the runs of those names. Never record into a folder of a released version: its recordings stay as
they were.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from planloom import Engine, MemoryJournal, Settings, ToolRegistry
from planloom.agents.reasoning import Reasoner
from planloom.core.chat import ModelCall, ToolCall
from planloom.core.events import ApprovalAnswered
from planloom.journal.codec import decode, encode
from planloom.plan.flow import FlowPolicy
from planloom.ports import Recorded
from planloom.testing.clock import ManualClock
from planloom.testing.crash import CrashingJournal, Spoil
from planloom.testing.fakes import fake_tool
from planloom.testing.models import FunctionModel, ScriptedModel
from planloom.tools.sparing import BreakerPolicy
from tests.crash.shapes import SHAPES, World, driven, plan_of

CUT_AT = 4
"""The write at which the power goes, in the recordings with a cut."""


def written(record: list[Recorded]) -> Iterator[str]:
    """Yield a line of JSON for each event: number, cause, and what the codec makes of it."""
    for entry in record:
        kind, version, body, blobs = encode(entry.event)
        line: dict[str, Any] = {"seq": entry.seq, "cause": entry.cause, "kind": kind, "version": version, "body": body}
        yield json.dumps(line | {"blobs": {blob.sha256: blob.text for blob in blobs}}, ensure_ascii=False)


def read(path: Path) -> list[Recorded]:
    """Return the events of a recording."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        event = decode(line["kind"], line["version"], line["body"], line["blobs"].__getitem__)
        found.append(Recorded(line["seq"], line["cause"], event))
    return found


async def recorded(shape: str, *, cut: bool) -> list[Recorded]:
    """Run a shape to its end, with a power cut and a resume on the way if `cut`; return its record."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    world.disk = disk
    if cut:
        journal = CrashingJournal(disk, at=CUT_AT, how=Spoil.AFTER, lag=1)
        async with Engine(journal, tools=world.tools(), clock=clock) as engine:
            starting = engine.start(plan_of(shape), run_id="r")
            if await driven(starting, clock, world, until=journal.stopped) is not None:
                return await disk.read("r")
        clock.advance(60)
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        await driven(engine.resume("r") if cut else engine.start(plan_of(shape), run_id="r"), clock, world)
    return await disk.read("r")


async def cancelled() -> list[Recorded]:
    """Cancel a run in the middle of a step that never ends; return its record."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    steps = [
        {"id": "long", "tool": "endless", "with": {"n": 1}},
        {"id": "next", "tool": "pure", "with": {"n": 2}, "needs": ["long"]},
    ]
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        run = await engine.start({"planloom": 1, "steps": steps}, run_id="r")
        await asyncio.sleep(0)
        await run.cancel(by="a person", reason="enough")
        await run.result()
    return await disk.read("r")


async def wide() -> list[Recorded]:
    """Run more steps at once than one turn decides about; return the record."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    plan = {"planloom": 1, "steps": [{"id": f"s{n}", "tool": "pure", "with": {"n": n}} for n in range(1_005)]}
    async with Engine(disk, tools=world.tools(), clock=clock) as engine:
        await engine.run(plan, run_id="r")
    return await disk.read("r")


OTHER_WAY = {"name": "other", "steps": [{"id": "x", "tool": "pure", "with": {"n": "${{ inputs.n }}"}}]}
ASKING: dict[str, list[dict[str, Any]]] = {
    "streamed": [{"id": "say", "model": "scripted://echo", "prompt": "one word and another " * 3, "stream": True}],
    "rate-wait": [{"id": name, "model": "limited", "prompt": name} for name in ("a", "b", "c")],
    "tools-of-a-model": [
        {"id": "ask", "model": "calling", "prompt": "What comes after 1 and 2?", "tools": ["pure"]},
        {"id": "end", "tool": "pay", "with": {"n": "${{ len(steps.ask.output) }}"}},
    ],
    "drafts-confirmed": [
        {"id": "first", "model": "strong", "prompt": "a", "speculate": {"draft": "cheap", "policy": "compare"}},
        {"id": "next", "tool": "pure", "with": {"n": "${{ len(steps.first.output) }}"}},
        {"id": "end", "tool": "pay", "with": {"n": "${{ steps.next.output }}"}},
    ],
    "drafts-rolled-back": [
        {"id": "first", "model": "strong", "prompt": "b", "speculate": {"draft": "wrong", "policy": "compare"}},
        {"id": "next", "tool": "pure", "with": {"n": "${{ len(steps.first.output) }}"}},
    ],
    "replanned": [
        {"id": "get", "tool": "picky", "with": {"n": 2}, "replan": {"max_steps": 3}},
        {"id": "end", "tool": "pay", "with": {"n": 1}, "needs": ["get"]},
    ],
}
"""Runs that ask models, by the name of their recording."""


async def asking(name: str, *, run_ahead: bool = True) -> list[Recorded]:
    """Run a plan that asks models, with answers from lists; return its record."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()

    async def before(call: ModelCall) -> None:
        over = asyncio.Event()
        clock.call_at(clock.now() + 5.0, over.set)
        await over.wait()

    calls = [ToolCall("1", "pure", {"n": 1}), ToolCall("2", "pure", {"n": 2})]
    models: dict[str, Any] = {
        "limited": "scripted://echo?rpm=60",
        "default": ScriptedModel([OTHER_WAY]),
        "calling": ScriptedModel([calls, "two and three"]),
        "strong": FunctionModel(lambda call: "a long answer", before=before),
        "cheap": FunctionModel(lambda call: "a long answer"),
        "wrong": FunctionModel(lambda call: "an answer"),
    }
    plan = {"planloom": 1, "name": name, "allow": ["pay", "picky", "pure"], "steps": ASKING[name]}
    async with Engine(disk, tools=world.tools(), models=models, clock=clock) as engine:
        await driven(engine.start(plan, run_id="r", run_ahead=run_ahead), clock, world)
    return await disk.read("r")


THINKING: list[Any] = [
    {"has_sufficient_info": True, "reasoning": "", "tasks": [{"description": "pay one", "tool_name": "pay"}]},
    {"n": 1},
    {"is_complete": True, "reasoning": "", "answer": "paid"},
]
"""What the model of an agent says that has one thing to do."""


async def agent(*, cut: bool) -> list[Recorded]:
    """Have an agent do something with an effect; with a power cut, just after that is on record."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()

    def reasoner(answers: list[Any]) -> Reasoner:
        return Reasoner(name="payer", model=ScriptedModel(answers), tools=ToolRegistry.of(world.tools()))

    plan = {"planloom": 1, "steps": [{"id": "do", "agent": "payer", "prompt": "Pay one."}]}
    journal: Any = CrashingJournal(disk, at=CUT_AT, how=Spoil.AFTER, lag=1) if cut else disk
    async with Engine(journal, tools=(), agents=[reasoner(THINKING)], clock=clock) as engine:
        until = journal.stopped if cut else None
        if await driven(engine.start(plan, run_id="r"), clock, world, until=until) is not None or not cut:
            return await disk.read("r")
    clock.advance(60)
    async with Engine(disk, tools=(), agents=[reasoner(THINKING[-1:])], clock=clock) as engine:
        await driven(engine.resume("r"), clock, world)
    return await disk.read("r")


async def paused() -> list[Recorded]:
    """Pause a run whose tool keeps failing and is left alone because of that; resume it; return its record."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    settings = Settings(breakers={"picky": BreakerPolicy(failures=1, open_seconds=5)})
    retry = {"max_attempts": 3, "initial_delay": 1, "jitter": False}
    steps = [
        {"id": "get", "tool": "picky", "with": {"n": 2}, "retry": retry, "effects": "none", "on_error": "continue"},
        {"id": "next", "tool": "pure", "with": {"n": 2}, "needs": ["get"]},
    ]
    async with Engine(disk, tools=world.tools(), clock=clock, settings=settings) as engine:
        run = await engine.start({"planloom": 1, "steps": steps}, run_id="r")
        await run.pause(by="a person")
        await run.result()
    async with Engine(disk, tools=world.tools(), clock=clock, settings=settings) as engine:
        await driven(engine.resume("r"), clock, world)
    return await disk.read("r")


LABELLED: list[dict[str, Any]] = [
    {"id": "fetch", "tool": "fetch"},
    {"id": "key", "tool": "vault"},
    {"id": "leak", "tool": "send", "with": {"n": "${{ steps.key.output }}"}, "on_error": "continue"},
    {
        "id": "each",
        "for_each": "${{ steps.fetch.output }}",
        "plan": {
            "inputs": {"page": {}},
            "steps": [{"id": "read", "tool": "clean", "with": {"n": "${{ inputs.page }}"}}],
        },
        "with": {"page": "${{ item }}"},
    },
    {"id": "send", "tool": "send", "with": {"n": "${{ steps.fetch.output }}"}},
    {
        "id": "book",
        "tool": "book",
        "with": {"n": "${{ steps.each.output }}"},
        "retry": {"max_attempts": 2, "initial_delay": 1, "jitter": False},
        "needs": ["send"],
    },
]
"""A plan whose values come from where others write them; some leave."""


async def labelled(*, cut: bool = False, again: bool = False) -> list[Recorded]:
    """Ask a person about values from outside on their way out; somebody answers something else first; it fails twice.

    Args:
        again: Return the record of the run that then does the rest.
    """
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    settings = Settings(flow=FlowPolicy(secret="ask", approval_seconds=600))
    tools = [
        fake_tool("fetch", [["page 1", "page 2"]], source="web"),
        fake_tool("vault", ["k"], secret=True),
        fake_tool("clean", [1], cleans="web"),
        fake_tool("send", ["sent"], effects="once"),
        fake_tool(
            "book", [ValueError("full"), ValueError("full"), "booked"], effects="idempotent", needs_approval=True
        ),
    ]
    plan, run_id = {"planloom": 1, "steps": LABELLED}, "before" if again else "r"
    journal: Any = CrashingJournal(disk, at=3, how=Spoil.AFTER, lag=1) if cut else disk
    async with Engine(journal, tools=tools, clock=clock, settings=settings) as engine:
        if cut:
            await driven(engine.start(plan, run_id=run_id), clock, world, until=journal.stopped)
        else:
            await (await engine.start(plan, run_id=run_id)).result()
    clock.advance(60)
    await disk.post(run_id, ApprovalAnswered("send", True, "somebody", clock.now(), binding="0" * 64))
    async with Engine(disk, tools=tools, clock=clock, settings=settings) as engine:
        await driven(engine.resume(run_id), clock, world)
        if again:
            await driven(engine.retry_failed(run_id, new_id="r"), clock, world)
    return await disk.read("r")


async def asked_inside() -> list[Recorded]:
    """Have a model read a page, and hand on what it says of it; return the record."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    tools = [fake_tool("fetch", ["a page"], source="web"), fake_tool("send", ["sent"], effects="once")]
    models = {"calling": ScriptedModel([[ToolCall("1", "fetch", {"n": 1})], "it says nothing"])}
    steps = [
        {"id": "ask", "model": "calling", "prompt": "What does the page say?", "tools": ["fetch"]},
        {"id": "send", "tool": "send", "with": {"n": "${{ steps.ask.output }}"}},
    ]
    async with Engine(disk, tools=tools, models=models, clock=clock) as engine:
        await driven(engine.start({"planloom": 1, "steps": steps}, run_id="r"), clock, world)
    return await disk.read("r")


async def forked() -> list[Recorded]:
    """Fork a run at one of its items, under a caller's own name of the request; return the record of the fork."""
    clock, world, disk = ManualClock(), World(), MemoryJournal()
    tools = [fake_tool("same", lambda n: n), fake_tool("send", ["sent", "sent again"], effects="once")]
    steps = [
        {"id": "before", "tool": "same", "with": {"n": [1, 2]}},
        {"id": "each", "tool": "same", "for_each": "${{ steps.before.output }}", "with": {"n": "${{ item }}"}},
        {"id": "send", "tool": "send", "with": {"n": "${{ steps.each.output }}"}},
    ]
    async with Engine(disk, tools=tools, clock=clock) as engine:
        await driven(engine.start({"planloom": 1, "steps": steps}, run_id="before"), clock, world)
        fork = engine.fork("before", "each[1]", 20, new_id="r", repeat_effects=True, request="f" * 64)
        await driven(fork, clock, world)
    return await disk.read("r")


Recording = Callable[[], Coroutine[Any, Any, list[Recorded]]]


def recordings() -> dict[str, Recording]:
    """Return what is to be recorded, by the name of its file."""
    found: dict[str, Recording] = {"cancelled": cancelled, "wide": wide}
    for shape in SHAPES:
        for cut in (False, True):
            name = f"{shape.replace(' ', '-').replace(',', '')}{'-cut' if cut else ''}"
            found[name] = partial(recorded, shape, cut=cut)
    found |= {"agent": partial(agent, cut=False), "agent-cut": partial(agent, cut=True), "paused": paused}
    found |= {"labelled": labelled, "labelled-cut": partial(labelled, cut=True), "labelled-inside": asked_inside}
    found |= {"labelled-again": partial(labelled, again=True), "forked": forked}
    found["drafts-not-ahead"] = partial(asking, "drafts-confirmed", run_ahead=False)
    return found | {name: partial(asking, name) for name in ASKING}


def main(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, recording in recordings().items():
        if not names or name in names:
            keep(folder / f"{name}.jsonl", asyncio.run(recording()))


def keep(path: Path, record: list[Recorded]) -> None:
    path.write_text("\n".join(written(record)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

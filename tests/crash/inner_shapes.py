"""Plans whose steps make calls of their own: agents, programs, agents of another kind; and the world they act on.

An agent does what its prompt says: "pure 1, pay 2 | put 3" are two rounds of tasks. Its model answers by what it is
asked, never by how often, and in the end with a digest of all it was told: an agent that was told anything else after a
restart than it would have been told without one comes to another result.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from planloom import Effects, NotDoneError, Tool, ToolContext
from planloom.agents.reasoning import Reasoner
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.events import AttemptFailed, AttemptSucceeded, CallEnded, CallStarted, StepResolved
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.errors import ModelError
from planloom.ports import Recorded
from planloom.testing.models import FunctionModel
from planloom.tools.registry import ToolRegistry
from tests.crash.shapes import SPINS, Done, World

PRICE = ModelPrice(10.0, 30.0, source="made up")
PUT_USD = 0.25
"""What the tool `put` declares to cost."""
_TASK = re.compile(r"The task:\n(.*)", re.DOTALL)
_THIS = re.compile(r"This task: (.*)")
_DONE = re.compile(r"^\d+\. \{", re.MULTILINE)


def agent(step_id: str, prompt: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "agent": "worker", "prompt": prompt, **fields}


def code(step_id: str, source: str, *tools: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "code": {"source": source, "tools": list(tools)}, **fields}


IN_PARALLEL = """
import asyncio
found = await asyncio.gather(*[pure(n=n) for n in ns])
return sum(found) + await pay(n=7)
"""
INSIDE: dict[str, dict[str, Any]] = {
    "agent": {
        "steps": [
            {"id": "a", "tool": "pay", "with": {"n": 1}},
            agent("do", "pure 1, put 2, pay ${{ steps.a.output }} | pay 4"),
            {"id": "end", "tool": "pay", "with": {"n": "${{ len(steps.do.output) }}"}},
        ]
    },
    "agent that has trouble": {
        "steps": [agent("do", "spoil 1, lose 2, later 3, nothing 4, mumble 5, garble 6, think 7 | lose 2, pay 8")]
    },
    "agent whose model fails at first": {
        "steps": [agent("do", "pay 1, shaky 2, pay 3", retry={"max_attempts": 5, "initial_delay": 5})]
    },
    "map of agents": {
        "steps": [
            agent("each", "pure 1${{ item }}, pay ${{ item }}", for_each=[1, 2, 3], max_parallel=2),
            {"id": "end", "tool": "pure", "with": {"n": "${{ len(steps.each.output) }}"}},
        ]
    },
    "agent in a sub-plan": {
        "steps": [
            {
                "id": "sub",
                "for_each": [1, 2],
                "plan": {
                    "name": "inner",
                    "steps": [
                        {"id": "x", "tool": "put", "with": {"n": "${{ inputs.n }}"}},
                        agent("do", "pay ${{ steps.x.output }}, put 5"),
                    ],
                },
                "with": {"n": "${{ item }}"},
            }
        ]
    },
    "agents within limits": {
        "limits": {"max_total_cost_usd": 50.0, "max_tool_calls": 40, "max_concurrent": 1},
        "steps": [agent(f"do{n}", f"pay {n}, put {n}") for n in range(3)],
    },
    "agents of another kind": {
        "steps": [
            {"id": "free", "agent": "free", "prompt": "look"},
            {"id": "paid", "agent": "paid", "prompt": "buy", "needs": ["free"]},
            {"id": "end", "tool": "pay", "with": {"n": "${{ len(steps.paid.output) }}"}},
        ]
    },
    "program": {
        "steps": [
            code("do", "return pay(n=pay(n=pure(n=start)))", "pure", "pay", **{"with": {"start": 1}}),
            {"id": "end", "tool": "pay", "with": {"n": "${{ steps.do.output }}"}},
        ]
    },
    "map of programs": {
        "steps": [code("each", IN_PARALLEL, "pure", "pay", for_each=[1, 2], **{"with": {"ns": [1, 2, "${{ item }}"]}})]
    },
}


def plan_inside(shape: str) -> dict[str, Any]:
    return {"planloom": 1, "name": shape} | INSIDE[shape]


def is_program(plan: dict[str, Any]) -> bool:
    """Return whether the plan has programs run, in processes of their own."""
    return "'code'" in str(plan)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to a model: what was asked, and what the answer costs."""

    what: str
    usd: float


@dataclass
class InnerWorld(World):
    """A world with models and agents in it.

    Attributes:
        asked: Every question that was answered, over all restarts.
        shaken: Questions that were refused once.
        expected: What each step comes to when nothing happens to its run.
    """

    spins: int = 3 * SPINS
    asked: list[Asked] = field(default_factory=list)
    shaken: set[str] = field(default_factory=set)
    expected: dict[str, Any] = field(default_factory=dict)

    def forget(self) -> None:
        """Forget what was done for a run that nobody knows of any more."""
        assert not [done for done in self.log if done.tool == "pay"], "what may be done once was done for no run"
        self.log.clear()
        self.asked.clear()

    def parts(self) -> dict[str, Any]:
        tools = self.tools()
        model = FunctionModel(self._answer, price=PRICE, before=self._think)
        worker = Reasoner(name="worker", model=model, tools=ToolRegistry.of(tools))
        others = {"free": _Foreign(self, Effects.NONE), "paid": _Foreign(self, Effects.ONCE)}
        return {"tools": tools, "agents": {"worker": worker} | others}

    def tools(self) -> list[Tool]:
        async def spoil(n: int) -> int:
            """Fail each time."""
            raise LookupError(f"no {n}")

        async def lose(n: int, context: ToolContext) -> int:
            """Do it, and fail each time."""
            await self.happened("pay", n, context.step, context.attempt, context.idempotency_key or "")
            raise ConnectionResetError(f"lost {n}")

        async def later(n: int) -> int:
            """Refuse each time."""
            raise NotDoneError(f"not {n} now")

        async def put(n: int, context: ToolContext) -> int:
            """Do what costs something."""
            await self.happened("put", n, context.step, context.attempt, context.idempotency_key or "")
            return n + 1

        rest = [
            Tool.from_function(spoil, effects="none"),
            Tool.from_function(lose, effects="once"),
            Tool.from_function(later, effects="once"),
            Tool.from_function(put, effects="idempotent", cost_per_call=PUT_USD),
        ]
        return [*(one for one in super().tools() if one.name in ("pure", "pay")), *rest]

    async def happened(self, tool: str, n: int, step: str, attempt: int, key: str) -> None:
        self.busy += 1
        try:
            done = Done(tool, step, attempt, n, key)
            self.log.append(done)
            if tool != "pure" and self.disk is not None and not await self.is_on_record(done, "r"):
                self.unrecorded.append(done)
            await asyncio.sleep(self.moment_s)
        finally:
            self.busy -= 1

    async def looked_up(self, step: str) -> Any:
        """Return the step's whole result if what is open of it has happened; else None: it may be tried again."""
        assert self.disk is not None
        record = await self.disk.read("r")
        keys = {f"r/{step}/{key}" for place, key in open_calls(record) if place == step} or {f"r/{step}"}
        return self.expected.get(step, "it happened") if keys & {done.key for done in self.log} else None

    # --- its model ------------------------------------------------------------------------------

    async def _think(self, call: ModelCall) -> None:
        self.busy += 1
        try:
            await asyncio.sleep(self.moment_s)
        finally:
            self.busy -= 1

    def _answer(self, call: ModelCall) -> LLMResponse:
        what = digest([[one.role, one.content] for one in call.messages])
        text = said(call, what, self.shaken)
        usage = Usage(sum(len(one.content) for one in call.messages), len(text), requests=1)
        self.asked.append(Asked(what, PRICE.cost_usd(usage)))
        return LLMResponse(text, "scripted", "function", usage, {"finish_reason": "stop", "asked": what})


_TOOLS = {"mumble": "pure", "garble": "pure", "shaky": "pure", "think": None}


def said(call: ModelCall, what: str, shaken: set[str]) -> str:
    """Return what an agent's model answers; the prompt of its step says what the agent is to do."""
    last, before = call.messages[-1].content, [one.content for one in call.messages]
    if "That answer cannot be used" in last:
        question = before[-3]
        return '{"n": 5}' if "mumble" in _this(question) else "prose again"
    task = next(found[1] for one in before if (found := _TASK.search(one)))
    rounds = [[one.strip() for one in part.split(",") if one.strip()] for part in task.split("|")]
    so_far = len(_DONE.findall(last))
    if "Plan what is to be done next" in last:
        return json.dumps({"has_sufficient_info": True, "reasoning": "", "tasks": _next(rounds, so_far)})
    if "Look at what was done" in last:
        is_over = so_far >= sum(map(len, rounds))
        answer = f"done {digest(last)[:12]}" if is_over else None
        return json.dumps({"is_complete": is_over, "reasoning": "", "answer": answer})
    name, _, n = _this(last).partition(" ")
    if name == "think":
        return f"thought of {n}"
    if name == "shaky" and what not in shaken:
        shaken.add(what)
        raise ModelError("503", remedy="ask again")
    return "prose" if name in ("mumble", "garble") else json.dumps({"n": int(n)})


def _next(rounds: list[list[str]], so_far: int) -> list[dict[str, Any]]:
    """Return the tasks of the round that comes after so many tasks."""
    for tasks in rounds:
        if so_far < len(tasks):
            names = [one.partition(" ")[0] for one in tasks]
            return [
                {"description": one, "tool_name": _TOOLS.get(name, name)}
                for one, name in zip(tasks, names, strict=True)
            ]
        so_far -= len(tasks)
    return []


def _this(question: str) -> str:
    found = _THIS.search(question)
    return found[1] if found else ""


@dataclass
class _Foreign:
    """An agent that planloom knows nothing of."""

    world: InnerWorld
    effects: Effects

    async def run_step(self, request: Any, context: dict[str, Any]) -> str:
        name = "pay" if self.effects is Effects.ONCE else "pure"
        await self.world.happened(name, 0, context["step"], context["attempt"], context["idempotency_key"])
        return f"did {request}"


def digest(told: Any) -> str:
    return sha256(json.dumps(told).encode()).hexdigest()


# --- what a record says of calls --------------------------------------------------------------


def open_calls(record: list[Recorded]) -> set[tuple[str, str]]:
    """Return step and key of `once` calls that began, and of which nobody knows nor has said what they came to."""
    found: set[tuple[str, str]] = set()
    for entry in record:
        event = entry.event
        if isinstance(event, CallStarted) and event.effects is Effects.ONCE:
            found.add((event.step, event.key))
        elif isinstance(event, CallEnded):
            found.discard((event.step, event.key))
        elif isinstance(event, AttemptSucceeded | AttemptFailed | StepResolved):
            found = {(step, key) for step, key in found if step != event.step}
    return found


def ended_calls(record: list[Recorded]) -> dict[tuple[str, str], CallEnded]:
    """Return what each call came to last."""
    events = [entry.event for entry in record]
    return {(event.step, event.key): event for event in events if isinstance(event, CallEnded)}


def answered_on_record(record: list[Recorded]) -> Counter[str]:
    """Return how often each question's answer is on record."""
    ended = [call for call in ended_calls(record).values() if call.kind == "model" and call.error is None]
    return Counter(call.output["metadata"]["asked"] for call in ended)


def true_usd(world: InnerWorld) -> float:
    """Return what was really used, on record or not."""
    return sum(one.usd for one in world.asked) + PUT_USD * sum(done.tool == "put" for done in world.log)

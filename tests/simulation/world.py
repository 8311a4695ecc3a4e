"""What tools and models really did, and what they answer: outside of every engine, journal and power cut.

Rule 1: what is in `World.effects` has happened, whatever a journal says.
Rule 2: what a tool answers follows from its name and its arguments alone; how long it takes, and whether it fails, from
the seed, its step and how often that was tried.
Rule 3: who calls is known by the context that the call is made in (`HOST`): the same tools work on every machine.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from planloom import Effects, NotDoneError, Tool, ToolContext
from planloom.agents.reasoning import Reasoner
from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.prices import ModelPrice
from planloom.core.result import Usage
from planloom.errors import ModelError
from planloom.models.scripted import CAPABILITIES
from planloom.ports import ModelMetadata
from planloom.tools.registry import ToolRegistry
from tests.crash.inner_shapes import said
from tests.simulation.dice import Dice

if TYPE_CHECKING:
    from tests.simulation.disk import Disk

COST_USD = 0.5
"""What the tool `pay` declares to cost."""
NOT_AS_ASKED = "somebody looked: it happened"
"""What a person says that an agent came to which was interrupted in the middle of a call that had happened."""
PRICE = ModelPrice(100.0, 300.0, source="made up")
EFFECTS = {
    "pure": Effects.NONE,
    "web": Effects.NONE,
    "put": Effects.IDEMPOTENT,
    "pay": Effects.ONCE,
    "wire": Effects.ONCE,
}
"""`web` answers what others wrote; `wire` is not called unless somebody allows that very call."""


class Host:
    """A machine, or a process on one: an engine's, or a worker's.

    Attributes:
        alive: False once it was killed: nothing that runs there does anything any more.
        busy: Calls under way there, by step.
    """

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.world = world
        self.alive = True
        self.died = asyncio.Event()
        self.busy: Counter[str] = Counter()

    def die(self) -> None:
        self.alive = False
        self.died.set()

    async def spend(self, seconds: float) -> None:
        """Let time pass; for ever, if the machine dies meanwhile."""
        await asyncio.sleep(seconds)
        await self.power()

    async def power(self) -> None:
        """Go on, or, without power, never."""
        if not self.alive:
            await asyncio.get_running_loop().create_future()


HOST: ContextVar[Host] = ContextVar("HOST")


@dataclass(frozen=True, slots=True)
class Done:
    """A call of a tool: what it was given, and what it answers.

    Attributes:
        inside: It was made by an agent, in the middle of its step.
    """

    tool: str
    step: str
    attempt: int
    key: str
    n: int
    given: Any
    answer: Any
    at: float
    inside: bool


@dataclass
class World:
    """Everything outside, over all restarts.

    Attributes:
        dice: The seed.
        disk: Where the record is kept, to look whether a call's start is on it.
        effects: What really happened, in order; `calls`: what was begun.
        unrecorded: Effects whose start was not on record.
        calm: From here on nothing fails by chance.
    """

    dice: Dice
    disk: Disk
    run_id: str = "r"
    effects: list[Done] = field(default_factory=list)
    calls: list[Done] = field(default_factory=list)
    unrecorded: list[Done] = field(default_factory=list)
    tried: Counter[str] = field(default_factory=Counter)
    shaken: set[str] = field(default_factory=set)
    hosts: list[Host] = field(default_factory=list)
    calm: bool = False

    def host(self, name: str) -> Host:
        host = Host(name, self)
        self.hosts.append(host)
        return host

    def is_busy(self, step: str) -> bool:
        """Return whether somebody is at a step somewhere."""
        return any(host.alive and host.busy[step] for host in self.hosts)

    def happened(self, key: str) -> Done | None:
        """Return the last effect that has this key."""
        return next((done for done in reversed(self.effects) if done.key == key), None)

    def number(self, *what: Any) -> int:
        """Return how often this was tried, this time included."""
        name = json.dumps(what)
        self.tried[name] += 1
        return self.tried[name]

    async def call(self, name: str, n: int, given: Any, context: ToolContext) -> Any:
        """Do what a tool does."""
        host, step = HOST.get(), context.step
        await host.power()
        inside = context.idempotency_key.startswith(f"{context.run_id}/{step}/")
        host.busy[step] += 1
        try:
            answer = value(name, n, given)
            at = asyncio.get_running_loop().time()
            done = Done(name, step, context.attempt, context.idempotency_key, n, given, answer, at, inside)
            self.calls.append(done)
            draw = self.dice.of("call", name, step, n if inside else 0, self.number("call", step, inside and n))
            fate = "" if self.calm else _fate(draw.random())
            await host.spend(_seconds(fate, draw.random()))
            if fate in _ERRORS_BEFORE:
                raise _ERRORS_BEFORE[fate]
            if EFFECTS[name] is not Effects.NONE:
                self.effects.append(done)
                if not self.disk.has_begun(done):
                    self.unrecorded.append(done)
            await host.spend(0.0 if draw.random() < 0.3 else draw.random())
            if fate == "after":
                raise ConnectionResetError("the answer was lost")
            return answer
        finally:
            host.busy[step] -= 1


def _fate(roll: float) -> str:
    """Return what goes wrong with a call: mostly nothing."""
    for share, fate in ((0.06, "before"), (0.03, "not done"), (0.02, "refused"), (0.04, "after"), (0.07, "slow")):
        roll -= share
        if roll < 0:
            return fate
    return "hangs" if roll < 0.02 else ""


_ERRORS_BEFORE: dict[str, Exception] = {
    "before": ConnectionError("nobody there"),
    "not done": NotDoneError("come back later"),
    "refused": LookupError("there is no such thing"),
}


def _seconds(fate: str, roll: float) -> float:
    if fate == "hangs":
        return 200.0
    if fate == "slow":
        return 2.0 + 20 * roll
    return 0.0 if roll < 0.2 else roll


def value(tool: str, n: int, given: Any) -> dict[str, Any]:
    """Return what a tool answers."""
    name = digest([tool, n, given])
    return {"v": f"v{name}", "items": [f"{name}-{place}" for place in range(int(name[0], 16) % 4)]}


def digest(told: Any) -> str:
    return blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=6).hexdigest()


# --- what every machine has --------------------------------------------------------------------


def _made(name: str) -> Tool:
    async def call(context: ToolContext, n: int, given: Any = None) -> Any:
        """Do something."""
        return await HOST.get().world.call(name, n, given, context)

    declared: dict[str, Any] = {"pay": {"cost_per_call": COST_USD}, "web": {"source": "web"}}.get(name, {})
    return Tool.from_function(call, name=name, effects=EFFECTS[name], needs_approval=name == "wire", **declared)


class SimulatedModel:
    """A `ports.Model` that answers by what it is asked, at random speed, and fails at random.

    Args:
        name: "big" says the truth, "small" mostly the same, "judge" judges, "planner" writes plans,
            "thinker" is an agent's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._metadata = ModelMetadata(name, "scripted", capabilities=CAPABILITIES, price=PRICE)

    @property
    def metadata(self) -> ModelMetadata:
        return self._metadata

    async def respond(self, call: ModelCall) -> LLMResponse:
        host = HOST.get()
        world, asked = host.world, [[one.role, one.content] for one in call.messages]
        what = digest(asked)
        draw = world.dice.of("model", self._name, what, world.number("model", self._name, what))
        await host.spend(draw.random() * (0.3 if self._name == "small" else 3.0))
        if not world.calm and draw.random() < 0.08:
            raise ModelError("503", remedy="ask again")
        text = self._said(world, call, what)
        return LLMResponse(text, "scripted", self._name, Usage(10, 5, requests=1), {"finish_reason": "stop"})

    async def stream(self, call: ModelCall) -> AsyncIterator[str | LLMResponse]:
        response = await self.respond(call)
        half = len(response.text) // 2
        for piece in (response.text[:half], response.text[half:]):
            await HOST.get().spend(0.1)
            yield piece
        yield response

    async def close(self) -> None:
        """There is nothing to let go of."""

    def _said(self, world: World, call: ModelCall, what: str) -> str:
        prompt = call.messages[-1].content
        if self._name == "thinker":
            return said(call, what, world.shaken)
        if self._name == "planner":
            return json.dumps(_plan_in_place(world.dice.of("plan", prompt).randrange(5)))
        if self._name == "judge":
            good = world.dice.share("judge", prompt) < 0.8
            return json.dumps({"is_valid": good, "score": 0.9 if good else 0.1, "reason": "seen"})
        if self._name == "small" and world.dice.share("draft", prompt) < 0.35:
            return f"wrong {what}"
        return told_by_model(prompt)


def told_by_model(prompt: str) -> str:
    """Return what `big` says."""
    return f"m{digest(prompt)}"


def _plan_in_place(which: int) -> dict[str, Any]:
    """Return a plan for a failed step's job; the last two go beyond what it may be."""
    tool = {"id": "x", "tool": "put", "with": {"n": 7, "given": "another way"}}
    more = {"id": "y", "tool": "pure", "needs": ["x"], "with": {"n": 8, "given": "${{ steps.x.output.v }}"}}
    steps: list[list[dict[str, Any]]] = [
        [tool],
        [tool, more],
        [tool | {"retry": {"max_attempts": 2}}, more | {"for_each": [1, 2]}],
        [{"id": "x", "approve": "Go on?"}],
        [tool | {"tool": "pay"}, more],
    ]
    return {"planloom": 1, "name": "another way", "steps": steps[which], "outputs": {}}


TOOLS = ToolRegistry.of([_made(name) for name in EFFECTS])
MODELS = {name: SimulatedModel(name) for name in ("big", "small", "judge", "planner", "thinker")}
AGENTS = {"worker": Reasoner(name="worker", model=MODELS["thinker"], tools=TOOLS)}

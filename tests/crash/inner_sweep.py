"""Steps with calls of their own, swept: agents, programs, agents of another kind.

Rule: on top of what every run keeps to: an answer of a model on record is not asked for again, what of a call nobody
knows waits for a person and nothing else does, and whatever is on record is paid for on record, once and in full.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planloom import Effects, NotDoneError, Tool, ToolContext
from planloom.agents.reasoning import Reasoner
from planloom.core.chat import LLMResponse, ModelCall
from planloom.plan.load import load_plan
from planloom.testing.models import FunctionModel
from planloom.testing.sweep.story import RUN_ID, CrashWorld, Staging, Story
from planloom.tools.registry import ToolRegistry
from tests.crash.answers import add_one
from tests.crash.inner_shapes import PRICE, PUT_USD, InnerWorld, answered_on_record
from tests.crash.looking import books, look_at_questions
from tests.crash.shape import DOWN_S, disk_of
from tests.crash.shapes import Done


async def spoil(n: int) -> int:
    """Fail each time."""
    raise LookupError(f"no {n}")


async def lose(n: int) -> int:
    """Do it, and fail each time."""
    raise ConnectionResetError(f"lost {n}")


async def later(n: int) -> int:
    """Refuse each time."""
    raise NotDoneError(f"not {n} now")


TOOLS = (
    Tool.from_function(add_one, name="pure", effects="none"),
    Tool.from_function(add_one, name="pay", effects="once"),
    Tool.from_function(add_one, name="put", effects="idempotent", cost_per_call=PUT_USD),
    Tool.from_function(spoil, effects="none"),
    Tool.from_function(lose, effects="once"),
    Tool.from_function(later, effects="once"),
)


@dataclass
class TimedWorld(InnerWorld):
    """An inner world that knows when it was asked what.

    Attributes:
        asked_at: Of every question that was answered, by the loop's time.
    """

    asked_at: list[float] = field(default_factory=list)

    def _answer(self, call: ModelCall) -> LLMResponse:
        response = super()._answer(call)
        self.asked_at.append(asyncio.get_running_loop().time())
        return response

    def agents(self, tools: Sequence[Tool]) -> Mapping[str, Any]:
        model = FunctionModel(self._answer, price=PRICE, before=self._think)
        by_name = {tool.name: tool for tool in tools}
        return {
            "agents": {
                "worker": Reasoner(name="worker", model=model, tools=ToolRegistry.of(tools)),
                "free": _Foreign(by_name["pure"], Effects.NONE),
                "paid": _Foreign(by_name["pay"], Effects.ONCE),
            }
        }


@dataclass(frozen=True)
class _Foreign:
    """An agent that planloom knows nothing of: it calls a tool by itself."""

    tool: Tool
    effects: Effects

    async def run_step(self, request: Any, context: dict[str, Any]) -> str:
        told = ToolContext(RUN_ID, context["step"], context["attempt"], context["idempotency_key"])
        await self.tool.call({"n": 0}, told)
        return f"did {request}"


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerCrashWorld(CrashWorld):
    inside: TimedWorld


def inner_world() -> InnerCrashWorld:
    inside = TimedWorld()
    return InnerCrashWorld(tools=TOOLS, parts=inside.agents, inside=inside)


def inner_staging(plan: dict[str, Any], lag: int) -> Staging:
    return Staging(plan=load_plan(plan), world=inner_world, lag=lag, down_s=DOWN_S, journal=disk_of(lag))


def keeps_inner_laws(story: Story, whole: Story) -> Iterator[str]:
    """Yield what is wrong with the calls inside of a story's steps."""
    if story is whole:
        return
    world = story.world
    assert isinstance(world, InnerCrashWorld)
    inside = world.inside
    inside.log = [Done(made.tool, made.step, made.attempt, made.args["n"], made.key) for made in story.made]
    begins = [life.began_at for life in story.lives]
    try:
        for life, since, until in zip(story.lives, begins, [*begins[1:], math.inf], strict=True):
            asked = Counter(
                one.what for one, at in zip(inside.asked, inside.asked_at, strict=True) if since <= at < until
            )
            if since and asked - (_answered(whole) - answered_on_record(life.before)):
                yield "a model was asked again although its answer is on record"
            look_at_questions("a life", life.before, life.after)
        if not any(not life.before for life in story.lives[1:]):  # else it paid for a run that nobody knows of
            books("at the end", inside, story.record, story.result)
    except AssertionError as error:
        yield str(error)


def _answered(whole: Story) -> Counter[str]:
    world = whole.world
    assert isinstance(world, InnerCrashWorld)
    return Counter(one.what for one in world.inside.asked)

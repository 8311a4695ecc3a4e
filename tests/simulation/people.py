"""People: they look at what is on record, answer what is asked, twice now and then, and cancel and pause as they like.

Rule 1: of a step of which nobody knows what it came to, a person finds out before saying anything, and says the truth.
Rule 2: what a person says names the event that asked for it, so that it can be told whether it was still asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from planloom.core.events import (
    ApprovalAnswered,
    CallEnded,
    CallStarted,
    CancelRequested,
    Fact,
    PauseRequested,
    StepResolved,
)
from planloom.errors import ConfigError, JournalError
from planloom.runtime.people import answer_fact, resolution_fact
from planloom.runtime.replay import replayed
from tests.simulation.world import NOT_AS_ASKED

if TYPE_CHECKING:
    from planloom.ports import Clock
    from planloom.runtime.run import Run
    from tests.simulation.bus import Bus
    from tests.simulation.disk import Asked, Disk, SimulatedJournal
    from tests.simulation.world import World


@dataclass
class People:
    """Everybody who has a say.

    Attributes:
        run: The run in hand, of the engine that drives it now; None while nobody does.
        desk: A journal of a process of their own, to leave answers in.
        answers: How many they gave; `promised`: what was durable, as they were told.
        in_time: A cancel was taken when the end of the run was not on record.
        prompt: They answer everything at once from now on.
        says_no: Share of approvals that are denied.
    """

    world: World
    disk: Disk
    bus: Bus | None
    desk: SimulatedJournal
    clock: Clock
    draw: Random
    run: Run | None = None
    answers: int = 0
    promised: list[Fact] = field(default_factory=list)
    in_time: bool = False
    prompt: bool = False
    says_no: float = 0.2

    async def live(self) -> None:
        """Look now and then, and answer."""
        while True:
            await asyncio.sleep(0.5 if self.prompt else 0.2 + 6.0 * self.draw.random())
            if not self.disk.has("r"):
                continue
            run = self.disk.run("r")
            for asked in list(run.asked.values()):
                if self.prompt or self.draw.random() < 0.6:
                    await self._answer(asked)

    async def cancel(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._say(CancelRequested("somebody", self.clock.now(), "enough"))

    async def pause(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._say(PauseRequested("somebody", self.clock.now()))

    # --- what they say ---

    async def _answer(self, asked: Asked) -> None:
        fact = self._opinion(asked)
        if fact is None:
            return
        await self._say(fact)
        if not self.prompt and self.draw.random() < 0.15:
            again = self._opinion(asked)
            if again is not None:
                await self._say(again)

    def _opinion(self, asked: Asked) -> Fact | None:
        """Return what somebody says who looks at the record, or None for nothing."""
        by, now = f"person {self.answers}#{asked.seq}", self.clock.now()
        state = replayed("r", self.disk.run("r").records).state
        try:
            if asked.what == "approval":
                approved = self.draw.random() >= self.says_no
                return answer_fact(state, asked.step, by=by, approved=approved, output=None, at=now)
            found = self._found_out(asked.step)
            if found is None:
                return None
            how, output = found
            return resolution_fact(state, asked.step, how, by=by, output=output, error=None, at=now)
        except ConfigError:
            return None  # it does not wait any more

    def _found_out(self, step: str) -> tuple[str, Any] | None:
        """Return how a step is to be resolved, and its output, or None while somebody may still be at it."""
        if self.world.is_busy(step) or (self.bus is not None and self.bus.has(step)):
            return None
        done = next((found for key in self._keys(step) if (found := self.world.happened(key)) is not None), None)
        if done is not None:
            return "output", NOT_AS_ASKED if done.inside else done.answer
        return "fail" if self.draw.random() < 0.2 and not self.prompt else "retry", None

    def _keys(self, step: str) -> list[str]:
        """Return the keys under which something of unknown outcome may have happened: open calls, or the step's own."""
        began: dict[str, bool] = {}
        for entry in self.disk.run("r").records:
            event: Any = entry.event
            if getattr(event, "step", None) != step:
                continue
            if isinstance(event, CallStarted):
                began[event.key] = True
            elif isinstance(event, CallEnded):
                began.pop(event.key, None)
            elif isinstance(event, StepResolved):
                began.clear()
        return [f"r/{step}/{key}" for key in began] or [f"r/{step}"]

    # --- how they say it ---

    async def _say(self, fact: Fact) -> None:
        """Tell the engine, or leave it in the journal, again and again until it is taken."""
        self.answers += 1
        in_hand = self.run is not None and self.draw.random() < 0.5
        try:
            if in_hand and self.run is not None:
                await self._tell(self.run, fact)
                return
            await self.desk.post("r", fact)
        except ConfigError:
            return  # it is not asked for any more
        except JournalError:
            await asyncio.sleep(1.0)  # tried again when they look again
            if isinstance(fact, CancelRequested | PauseRequested):
                await self._say(fact)

    async def _tell(self, run: Run, fact: Fact) -> None:
        telling = asyncio.ensure_future(_told(run, fact))
        try:
            done, _ = await asyncio.wait((telling,), timeout=5.0)
            if done:
                telling.result()
                self.promised.append(fact)
                self.in_time = self.in_time or (isinstance(fact, CancelRequested) and not self.disk.run("r").finished)
        finally:
            telling.cancel()


async def _told(run: Run, fact: Fact) -> None:
    match fact:
        case ApprovalAnswered():
            await run.approve(fact.step, by=fact.by, approved=fact.approved)
        case StepResolved():
            await run.resolve(fact.step, fact.how, by=fact.by, output=fact.output, error=fact.error)
        case CancelRequested():
            await run.cancel(by=fact.by, reason=fact.reason)
        case PauseRequested():
            await run.pause(by=fact.by)

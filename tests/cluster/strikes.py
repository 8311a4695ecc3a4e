"""Whom a trial of a cluster strikes, when and how: drawn beforehand, from a seed.

Rule 1: the same seed draws the same strikes. What a process was doing when it was struck, no seed says.
Rule 2: a server that is struck is up again before the next strike; an agent or a worker need not be.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tests.cluster.members import Deployment, Member

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

WAYS = {
    "worker killed": 40,
    "worker stopped past its lease": 12,
    "agent killed": 22,
    "agent stopped past its lease": 6,
    "broker killed": 9,
    "broker killed, store lost": 4,
    "database killed": 7,
}
"""How often each is drawn, of a hundred."""
ATTEMPT_S = 5.0
"""Longer than any attempt takes."""


@dataclass(frozen=True)
class Strike:
    """One of them.

    Attributes:
        whom: Which of the agents or workers.
        after_s: Seconds since the one before.
        away_s: Seconds until it is started again, or goes on.
    """

    way: str
    whom: int
    after_s: float
    away_s: float


def drawn_strikes(
    number: int, dice: Random, *, lease_s: float, pace_s: float, ways: Sequence[str] = ()
) -> list[Strike]:
    """Return so many strikes; of many, each way is among them."""
    drawn = dice.choices(list(WAYS), weights=list(WAYS.values()), k=number)
    if number >= len(WAYS):
        for place, way in zip(dice.sample(range(number), k=len(WAYS)), WAYS, strict=True):
            drawn[place] = way
    found = []
    for way in ways or drawn:
        away_s = dice.uniform(1.2, 2.2) * lease_s if "stopped" in way else dice.uniform(0.0, 1.0)
        found.append(Strike(way, dice.randrange(1_000), dice.uniform(0.2, 1.8) * pace_s, away_s))
    return found


class Striker:
    """Strikes the parts of a cluster, and has them come back.

    Attributes:
        struck: How often, by way.
        stood: From when until when something stood still, on the loop's clock.
    """

    def __init__(self, cluster: Deployment) -> None:
        self._cluster = cluster
        self._tasks: set[asyncio.Task[None]] = set()
        self.struck: Counter[str] = Counter()
        self.stood: list[list[float]] = []

    async def strike(self, strike: Strike) -> None:
        """Strike; on return, a server is up again."""
        nats, postgres = self._cluster.nats, self._cluster.postgres
        self.struck[strike.way] += 1
        match strike.way:
            case "broker killed":
                await asyncio.to_thread(nats.kill)
                await asyncio.sleep(strike.away_s)
                await asyncio.to_thread(nats.start)
            case "broker killed, store lost":
                await asyncio.to_thread(nats.kill)
                await asyncio.to_thread(nats.wipe)
                await asyncio.sleep(strike.away_s)
                await asyncio.to_thread(nats.start)
            case "database killed":
                await asyncio.to_thread(postgres.kill)
                await asyncio.sleep(strike.away_s)
                await asyncio.to_thread(postgres.start)
            case _:
                who, _, how = strike.way.partition(" ")
                among = self._cluster.workers if who == "worker" else self._cluster.agents
                standing = [one for one in among if one.is_up and not one.stopped] or among
                member = standing[strike.whom % len(standing)]
                self._start(self._pause(member, strike) if how.startswith("stopped") else self._kill(member, strike))

    async def _kill(self, member: Member, strike: Strike) -> None:
        await asyncio.to_thread(member.kill)
        await asyncio.sleep(strike.away_s)
        if not member.is_up:
            member.start()

    async def _pause(self, member: Member, strike: Strike) -> None:
        if not member.is_up:
            return
        loop = asyncio.get_running_loop()
        stood = [loop.time(), math.inf]
        self.stood.append(stood)
        member.stop()
        await asyncio.sleep(strike.away_s)
        member.go_on()
        stood[1] = loop.time()

    def may_be_at_it(self, since: float) -> bool:
        """Return whether somebody may still do what was given up then: who stood still, or went on just now."""
        now = asyncio.get_running_loop().time()
        return any(began < since + ATTEMPT_S and now < ended + ATTEMPT_S for began, ended in self.stood)

    async def all_back(self) -> None:
        """Wait until everything that was struck is there again."""
        await asyncio.gather(*self._tasks)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

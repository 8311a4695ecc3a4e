"""The worker's end: takes attempts, has them made here, says what they came to.

Rule 1: an attempt is made once, however often it is asked for: run, step, attempt and epoch name it, within the lane
that asks. Two records may each have a run of one name: what one of them came to is no answer for the other.
Rule 2: what was not begun is given back, not dropped; what was begun is answered.
Rule 3: a request is checked here again, whatever the engine checked: tools and allowlist are this worker's own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planloom.core.events import AttemptFailed
from planloom.errors import JournalError, OutputError, ProtocolError
from planloom.plan.policy import FailureKind
from planloom.transport.leases import ENDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.core.commands import RunStep
    from planloom.core.events import Fact
    from planloom.ports import Clock, Transport
    from planloom.transport.wire import WireFormat

KEPT_OUTCOMES = 256
"""Ended attempts whose outcome is kept, in case they are asked for again."""
KEPT_BYTES = 64 * 1024
"""Size of an outcome from which only the fact is kept that there was one."""

_Name = tuple[str, str, int, int, str]
"""Run, step, attempt, epoch, and the lane of its engine."""


class Bench:
    """Makes the attempts that an engine sends.

    Args:
        transport: Makes them in this process.
        send: Takes what is to be told to the engine; raises ProtocolError for what cannot be sent.
        refuses: Returns why an attempt must not be made here, or "".
        at_rest: Is called when nothing is under way any more, once `drain` was.
    """

    def __init__(
        self,
        transport: Transport,
        wire: WireFormat,
        clock: Clock,
        send: Callable[[dict[str, Any]], None],
        *,
        capacity: int,
        refuses: Callable[[RunStep], str],
        at_rest: Callable[[], None],
    ) -> None:
        self._lane = transport.lane()
        self._wire = wire
        self._clock = clock
        self._send = send
        self._capacity = capacity
        self._refuses = refuses
        self._at_rest = at_rest
        self._under_way: dict[str, tuple[_Name, RunStep]] = {}
        """By lease."""
        self._leases: dict[_Name, str] = {}
        self._ended: OrderedDict[_Name, list[Any] | None] = OrderedDict()
        """The facts of ended attempts; None: too large to be kept."""
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._numbers = itertools.count(1)
        self._draining = False

    def hear(self, message: dict[str, Any]) -> None:
        """Do what the engine says."""
        match message["m"]:
            case "do":
                self._do(message)
            case "stop":
                known = self._under_way.get(message["lease"])
                if known is not None:
                    self._lane.stop(known[1].run_id, known[1].key)
            case "recorded":
                answer = self._answers.pop(message["id"], None)
                if answer is not None and not answer.done():
                    if message["problem"]:
                        answer.set_exception(JournalError(message["problem"]))
                    else:
                        answer.set_result(message["wanted"])
            case what:
                raise ProtocolError(f"an engine said {what!r}")

    def drain(self) -> None:
        """Take nothing more; say so when all that was begun has ended."""
        self._draining = True
        self._rest()

    def stop_all(self) -> None:
        for _, request in list(self._under_way.values()):
            self._lane.stop(request.run_id, request.key)

    def _rest(self) -> None:
        if self._draining and not self._under_way:
            self._at_rest()

    def _do(self, message: dict[str, Any]) -> None:
        run_id, key, attempt, epoch = message["at"]
        name, lease = (run_id, key, attempt, epoch, message["lane"]), message["lease"]
        if name in self._ended:
            fact = self._ended[name]
            if fact is None:
                self._refuse(name, lease, "it was made here, and its outcome was not kept", FailureKind.LOST)
            else:
                self._send({"m": "outcome", "lease": lease, "fact": fact})
            return
        if name in self._leases:  # it is being made; whoever asked last is told
            self._under_way[lease] = self._under_way.pop(self._leases[name])
            self._leases[name] = lease
            return
        if self._draining or len(self._under_way) >= self._capacity or self._holds(run_id, key):
            self._send({"m": "returned", "lease": lease})
            return
        now = self._clock.now()
        try:
            request = self._wire.request_in(message["step"], now)
        except ProtocolError as error:
            self._refuse(name, lease, f"the worker cannot read what it is to do: {error.message}")
            return
        why = self._refuses(request)
        if why:
            self._refuse(name, lease, why)
            return
        self._under_way[lease] = name, request
        self._leases[name] = lease
        self._send({"m": "begun", "lease": lease})
        self._lane.submit(request, lambda fact: self._state(name, fact), lambda fact: self._record(name, fact))

    def _holds(self, run_id: str, key: str) -> bool:
        """Return whether another attempt has this place here: a stop would not know which of them is meant."""
        return any((request.run_id, request.key) == (run_id, key) for _, request in self._under_way.values())

    def _refuse(self, name: _Name, lease: str, why: str, kind: FailureKind = FailureKind.REFUSED) -> None:
        now = self._clock.now()
        fact = AttemptFailed(name[1], name[2], name[3], kind, why, now, now)
        self._send({"m": "outcome", "lease": lease, "fact": self._wire.fact_out(fact)})

    def _state(self, name: _Name, fact: Fact) -> None:
        """Tell the engine what an attempt states, and remember what it came to."""
        lease = self._leases.get(name)
        if lease is None:
            return
        if not isinstance(fact, ENDS):
            self._send({"m": "note", "lease": lease, "fact": self._wire.fact_out(fact)})
            return
        del self._leases[name], self._under_way[lease]
        try:
            self._end(name, lease, fact)
        except (OutputError, ProtocolError) as error:
            failed = AttemptFailed(
                fact.step, fact.attempt, fact.epoch, FailureKind.OUTPUT, str(error), fact.started_at, fact.at
            )
            spent = replace(failed, usage=fact.usage, cost_usd=fact.cost_usd, tool_calls=fact.tool_calls)
            self._end(name, lease, spent)
        self._rest()

    def _end(self, name: _Name, lease: str, fact: Fact) -> None:
        told = self._wire.fact_out(fact)
        self._send({"m": "outcome", "lease": lease, "fact": told})
        size_bytes = len(told[2]) + sum(map(len, told[3].values()))
        self._ended[name] = told if size_bytes <= KEPT_BYTES else None
        while len(self._ended) > KEPT_OUTCOMES:
            self._ended.popitem(last=False)

    async def _record(self, name: _Name, fact: Fact) -> bool:
        """Have a fact put on record and wait until it is; an attempt the engine has no use for must not go on."""
        lease = self._leases.get(name)
        if lease is None:
            return False
        number = next(self._numbers)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._send({"m": "record", "lease": lease, "id": number, "fact": self._wire.fact_out(fact)})
        try:
            return await answer
        finally:
            self._answers.pop(number, None)

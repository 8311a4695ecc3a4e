"""The attempts of one run, made by worker processes that it is lent as it needs them.

Rule 1: every attempt is answered exactly once, by the worker that has its lease, or by this file in its place.
Rule 2: a worker gets as many attempts as it can make at a time; the rest waits here, in order, and is never dropped.
Rule 3: an attempt asked to stop answers within GRACE_S, or its process is killed with everything it started.
Rule 4: while other programs wait for a worker, nobody keeps one beyond the attempt it is at, but for one that lingers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from planloom.core.events import AttemptFailed
from planloom.errors import ConfigError, OverloadedError, PlanloomError, ProtocolError, WorkerLostError
from planloom.plan.policy import FailureKind
from planloom.transport.fitting import kind_of_work, misfit, place_of
from planloom.transport.leases import ENDS, NOTES, Errand, Held

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.core.commands import RunStep
    from planloom.core.events import Fact
    from planloom.ports import Clock, Deliver, Lane, Record, Transport
    from planloom.transport.pool import WorkerPool
    from planloom.transport.wants import Want
    from planloom.transport.wire import WireFormat
    from planloom.transport.worker import Worker

GRACE_S = 1.4
"""Seconds a stopped attempt has to answer; the worker itself gives it up after a little less."""


@dataclass(frozen=True, slots=True)
class LendingTerms:
    """On what terms runs are lent workers; see `processes.ProcessTransport`."""

    pool: WorkerPool
    wire: WireFormat
    clock: Clock
    here: Transport
    kinds_here: frozenset[str]
    max_per_run: int | None
    linger_s: float
    patience_s: float


class ProcessLane:
    """The attempts of one run."""

    def __init__(self, terms: LendingTerms, on_end: Callable[[ProcessLane], None]) -> None:
        self._terms = terms
        self._on_end = on_end
        self._pool, self._wire, self._clock = terms.pool, terms.wire, terms.clock
        self._loop = asyncio.get_running_loop()
        self._name = token_hex(8)
        """Tells its attempts from those of another run of the same name."""
        self._queue: deque[Errand] = deque()
        self._at: dict[tuple[str, str], Errand] = {}
        self._waiting: dict[Errand, Want | None] = {}
        """Attempts for which a worker was asked."""
        self._held: list[Held] = []
        self._here: Lane | None = None
        self._recording: set[asyncio.Task[None]] = set()
        self._given_back = False
        self._silent = False

    # --- the port ---

    def submit(self, request: RunStep, deliver: Deliver, record: Record) -> None:
        if kind_of_work(request) in self._terms.kinds_here:
            self._lane_here().submit(request, deliver, record)
            return
        place = request.run_id, request.key
        known = self._at.get(place)
        if known is not None and (known.request.attempt, known.request.epoch) == (request.attempt, request.epoch):
            return
        errand = Errand(request, deliver, record)
        self._at[place] = errand
        self._queue.append(errand)
        self._fill()

    def stop(self, run_id: str, key: str) -> None:
        if self._here is not None:
            self._here.stop(run_id, key)
        errand = self._at.get((run_id, key))
        if errand is None or errand.stopping:
            return
        errand.stopping = True
        # Not at once: the turn that asked for it is still being carried out.
        self._loop.call_soon(self._stop, errand)

    def close(self) -> None:
        if self._here is not None:
            self._here.close()
        self._given_back = True
        for held in list(self._held):
            self._release_if_idle(held)
        if not self._held:
            self._on_end(self)

    # --- to a worker ---

    def _fill(self) -> None:
        """Send what waits to workers with room, and ask for workers for the rest."""
        for held in self._held:
            self._fill_one(held)
        self._ask()

    def _fill_one(self, held: Held) -> None:
        while held.has_room and self._queue:
            errand = self._queue[0]
            if self._misfit(errand, held.worker):
                found = next((one for one in self._queue if not self._misfit(one, held.worker)), None)
                if found is None:
                    return
                errand = found
            self._queue.remove(errand)
            self._send(errand, held)

    def _misfit(self, errand: Errand, worker: Worker) -> bool:
        place = place_of(errand.request, self._terms.patience_s)
        return not worker.offer.has(place.require) or bool(misfit(errand.request, worker.offer))

    def _ask(self) -> None:
        """Have a worker provisioned for each attempt that waits, as far as there may be that many."""
        most = max(1, self._pool.max if self._terms.max_per_run is None else self._terms.max_per_run)
        for errand in list(islice(self._queue, most)):
            if len(self._waiting) + len(self._held) >= most:
                return
            if errand not in self._waiting and errand in self._queue:
                self._ask_for(errand)

    def _ask_for(self, errand: Errand) -> None:
        request = errand.request
        place = place_of(request, self._terms.patience_s)

        def given(worker: Worker) -> None:
            self._waiting.pop(errand, None)
            self._take(worker)

        def failed(error: PlanloomError) -> None:
            self._waiting.pop(errand, None)
            if errand in self._queue:
                self._queue.remove(errand)
                self._loop.call_soon(self._answer, errand, self._not_begun(errand, error))

        try:
            self._waiting[errand] = None  # a worker may be given before `ask` returns
            want = self._pool.ask(
                given,
                failed,
                program=request.run_id,
                require=place.require,
                prefer=place.prefer,
                patience_s=place.patience_s,
                fits=lambda offer: misfit(request, offer),
            )
            if errand in self._waiting:
                self._waiting[errand] = want
        except (OverloadedError, ConfigError) as error:
            failed(error)

    def _take(self, worker: Worker) -> None:
        """Use a worker that was provisioned, or give it back at once if there is nothing left for it."""
        held = Held(worker, since=self._loop.time())
        worker.on_message = lambda message: self._said(held, message)
        worker.on_lost = lambda why: self._lost(held, why)
        self._held.append(held)
        self._fill_one(held)
        self._release_if_idle(held)

    def _withdraw(self, errand: Errand) -> None:
        want = self._waiting.pop(errand, None)
        if want is not None:
            self._pool.withdraw(want)

    def _send(self, errand: Errand, held: Held) -> None:
        self._withdraw(errand)
        request, now = errand.request, self._clock.now()
        token = held.lease(errand)
        at = [request.run_id, request.key, request.attempt, request.epoch]
        try:
            work = self._wire.request_out(request, now)
            held.worker.send({"m": "do", "lease": token, "lane": self._name, "at": at, "step": work})
        except (ProtocolError, WorkerLostError) as error:  # nothing was sent
            del held.errands[token]
            self._loop.call_soon(self._answer, errand, self._not_begun(errand, error))
            return
        if request.deadline_at is not None:
            self._end_after(errand, request.deadline_at - now + GRACE_S, FailureKind.TIMEOUT, "it took too long")

    # --- from a worker ---

    def _said(self, held: Held, message: dict[str, Any]) -> None:
        try:
            self._hear(held, message)
        except (ProtocolError, KeyError, TypeError) as error:
            why = f"it does not keep to what was agreed: {error}"
            held.worker.kill(why)
            self._lost(held, why)

    def _hear(self, held: Held, message: dict[str, Any]) -> None:
        what = message["m"]
        if what == "bye":
            held.leaving = True
            self._release_if_idle(held)
            return
        errand = held.errands.get(message["lease"])
        if errand is None or what == "begun":
            return  # of a lease that has ended: somebody else has the attempt, or it was answered
        match what:
            case "note":
                fact = self._wire.fact_in(message["fact"], self._clock.now())
                errand.check(fact, NOTES)
                self._deliver(errand, fact)
            case "record":
                fact = self._wire.fact_in(message["fact"], self._clock.now())
                errand.check(fact, NOTES)
                task = self._loop.create_task(self._record(held, message["lease"], message["id"], fact))
                self._recording.add(task)
                task.add_done_callback(self._recording.discard)
            case "outcome":
                fact = self._wire.fact_in(message["fact"], self._clock.now())
                errand.check(fact, ENDS)
                del held.errands[message["lease"]]
                self._ended(held, errand, fact)
            case "returned":
                del held.errands[message["lease"]]
                held.leaving = held.worker.seat.draining = True  # it had room: so it goes, or it is no worker
                self._again(errand)
                self._release_if_idle(held)
            case _:
                raise ProtocolError(f"{what!r} says nothing here")

    async def _record(self, held: Held, token: str, number: int, fact: Fact) -> None:
        errand = held.errands.get(token)
        is_wanted, problem = False, ""
        if errand is not None and not self._silent:
            try:
                is_wanted = await errand.record(fact)
            except PlanloomError as error:
                problem = error.message
        with suppress(WorkerLostError):
            held.worker.send({"m": "recorded", "id": number, "wanted": is_wanted, "problem": problem})

    def _ended(self, held: Held, errand: Errand, fact: Fact) -> None:
        """Hand on what an attempt came to, and end a worker in which something goes on that it cannot stop."""
        if isinstance(fact, AttemptFailed) and fact.abandoned:
            held.leaving = held.tainted = True
            if not held.errands:
                held.worker.kill("something in it could not be stopped")
                fact = replace(fact, abandoned=False, error=f"{fact.error}; its process was killed")
        self._answer(errand, fact)
        if held.worker.lost is not None:
            self._let_go(held)
        elif held.leaving or (not self._terms.linger_s and self._pool.others_wait(errand.request.run_id)):
            held.leaving = True
            self._release_if_idle(held)
            self._fill()
        else:
            self._fill_one(held)
            self._release_if_idle(held)

    def _lost(self, held: Held, why: str) -> None:
        """Answer for what a worker was at that died."""
        now = self._clock.now()
        for errand in list(held.end()):
            if errand.stopping:
                fact = errand.failed(FailureKind.CANCELLED, f"stopped; worker {held.worker.id} is gone", now)
            else:
                text = f"worker {held.worker.id} was lost: {why}"
                fact = errand.failed(FailureKind.LOST, text, now)
            self._answer(errand, fact)
        self._let_go(held)
        self._fill()

    # --- the end of an attempt ---

    def _again(self, errand: Errand) -> None:
        """Have an attempt made elsewhere that had not begun."""
        errand.clear_timer()
        if errand.stopping:
            self._stop(errand)
            return
        self._queue.appendleft(errand)
        self._fill()

    def _answer(self, errand: Errand, fact: Fact) -> None:
        errand.clear_timer()
        place = errand.request.run_id, errand.request.key
        if self._at.get(place) is errand:
            del self._at[place]
        self._deliver(errand, fact)

    def _deliver(self, errand: Errand, fact: Fact) -> None:
        if not self._silent:
            errand.deliver(fact)

    def _not_begun(self, errand: Errand, error: PlanloomError) -> AttemptFailed:
        """Return the fact of an attempt that no worker can be given."""
        hopeless = isinstance(error, ProtocolError) or error.code == "worker.none"
        kind = FailureKind.REFUSED if hopeless else FailureKind.NOT_DONE
        return errand.failed(kind, str(error), self._clock.now())

    def _stop(self, errand: Errand) -> None:
        """Have an attempt end: here if it waits, else where it is made, and by force if it does not."""
        now = self._clock.now()
        for held in self._held:
            token = held.token_of(errand)
            if token is not None:
                held.worker.send({"m": "stop", "lease": token})
                self._end_after(errand, GRACE_S, FailureKind.CANCELLED, "stopped, but it did not answer")
                return
        place = errand.request.run_id, errand.request.key
        if self._at.get(place) is not errand:
            return  # it was answered meanwhile
        if errand in self._queue:
            self._queue.remove(errand)
        self._withdraw(errand)
        self._answer(errand, errand.failed(FailureKind.CANCELLED, "stopped before it began", now))

    def _end_after(self, errand: Errand, seconds: float, kind: FailureKind, text: str) -> None:
        errand.clear_timer()
        # By the event loop's clock: it is the worker that is waited for, which knows no other time.
        errand.timer = self._loop.call_later(max(0.0, seconds), self._end, errand, kind, text).cancel

    def _end(self, errand: Errand, kind: FailureKind, text: str) -> None:
        """Kill the worker that has the attempt; what else it was at is lost with it."""
        held = next((held for held in self._held if held.token_of(errand) is not None), None)
        if held is None:
            return
        token = held.token_of(errand)
        assert token is not None
        del held.errands[token]
        is_ours = held.worker.pid is not None
        held.worker.kill(f"an attempt in it: {text}")
        end = "its process was killed" if is_ours else "its worker was disowned"
        self._answer(errand, errand.failed(kind, f"{text}; {end}", self._clock.now(), abandoned=not is_ours))
        self._lost(held, f"it was ended because of {errand.request.key!r}, which could not be stopped")

    # --- giving workers back ---

    def _release_if_idle(self, held: Held, *, at_once: bool = False) -> None:
        if held.errands or held not in self._held:
            return
        linger_s = self._terms.linger_s
        if at_once or held.leaving or self._given_back or not linger_s:
            self._let_go(held)
            return
        held.since = self._loop.time()
        if linger_s != float("inf"):
            self._loop.call_later(linger_s, self._linger_ends, held, held.since)

    def _linger_ends(self, held: Held, since: float) -> None:
        if held.since == since:
            self._release_if_idle(held, at_once=True)

    def _let_go(self, held: Held) -> None:
        if held in self._held:
            self._held.remove(held)
            if held.tainted:
                held.worker.kill("something in it could not be stopped")
            self._pool.release(held.worker)
            if self._queue:
                self._ask()  # there may be one more now
        if self._given_back and not self._held:
            self._on_end(self)

    def _lane_here(self) -> Lane:
        if self._here is None:
            self._here = self._terms.here.lane()
        return self._here

    # --- the end of all ---

    def end_all(self) -> None:
        """Ask everything to stop; nothing more is delivered."""
        self._silent = True
        for errand in list(self._at.values()):
            if not errand.stopping:
                errand.stopping = True
                self._stop(errand)
        self.close()

    async def cut_short(self) -> None:
        """Give every worker back, killed if it is still at something."""
        for held in list(self._held):
            for errand in list(held.end()):
                errand.clear_timer()
            held.worker.kill("the engine closes, and it does not stop")
            self._let_go(held)
        for task in self._recording:
            task.cancel()
        if self._recording:
            await asyncio.wait(self._recording)

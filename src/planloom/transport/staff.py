"""The workers of a pool, from their start to their end: who is here, who comes, who is lost, who may go.

Rule 1: whoever is silent for a lease is lost, unless it was this process that did not listen.
Rule 2: a lost worker's process is killed with its group; one that is not ours is disowned, and what it says is counted.
Rule 3: after a failed start the next one waits, twice as long each time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.guardian import Guardian
from planloom.transport.child import ChildProcess, ended_how
from planloom.transport.prospects import HERE, Prospects, Rota
from planloom.transport.reception import Reception
from planloom.transport.worker import Offer, Seat, SeatState

if TYPE_CHECKING:
    from planloom.transport.handshake import Hello
    from planloom.transport.link import Link
    from planloom.transport.wants import Want

_log = logging.getLogger("planloom.workers")

LEAVE_S = 1.0
"""Seconds a worker that was told to go has to do so."""
DRAIN_S = 5.0
"""Seconds one has that goes of its own accord, after its last attempt."""
LAST_FRAMES_S = 0.5
"""Seconds in which what a dead process sent last is still read."""
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 30.0
PATIENT_STARTS = 3
"""Failed starts in a row after which whoever waits is told."""
USEFUL_S = 1.0
"""A worker that dies unused within so many seconds counts as one that could not be started."""


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something that happened to a worker.

    Attributes:
        kind: "started", "joined", "provisioned", "released", "lost", "left", "start_failed", "refused" or "late".
        at: Seconds since the epoch.
        worker: Its id; of one that was refused, the name it gave.
        program: Whom it was lent to, or "".
        why: Of "lost", "start_failed", "refused" and "late".
    """

    kind: str
    at: float
    worker: str
    program: str = ""
    why: str = ""


class Staff:
    """Keeps the seats.

    Args:
        changed: Is called when there may be somebody to lend, or room for somebody new.
        tell: Takes what happened: kind, worker, program, why.

    Attributes:
        token: What workers that join from outside must know.
        why_not: Last words of the last process that could not be started, while none could; else "".
    """

    def __init__(
        self, rota: Rota, token: str, *, changed: Callable[[], None], tell: Callable[[str, str, str, str], None]
    ) -> None:
        self.rota = rota
        self.token = token
        self.seats: dict[str, Seat] = {}
        self.prospects = Prospects(rota, self.seats)
        self.reception = Reception(self._token_of, self._admit, self._refused, lease_s=rota.lease_s)
        self.why_not = ""
        self._changed = changed
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._ghosts: set[Seat] = set()
        """Lost workers that are not ours and whose connection is still open."""
        self._children: set[ChildProcess] = set()
        self._guardian = Guardian()
        self._numbers = itertools.count(1)
        self._failures = 0
        self._start_at = 0.0
        self._tick_s = min(rota.lease_s / 4, rota.idle_s / 2, 1.0)
        self._ticked_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        """Is done when the last seat is given up, while the pool closes."""
        self._buried: asyncio.Future[None] | None = None
        """Is done when the last process has ended."""
        self._closed = False

    async def open(self, listen: str | None) -> None:
        await self.reception.open(listen)
        self._ticked_at = self._loop.time()
        self._tick()

    async def close(self) -> None:
        """End every worker, and wait for it."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for seat in list(self.seats.values()):
            if seat.state is SeatState.LENT:
                self.lose(seat, "its pool was closed")
            else:
                self.leave(seat, "its pool was closed")
        self._emptied = self._loop.create_future()
        try:
            if self.seats:
                await asyncio.wait([self._emptied], timeout=LEAVE_S)
        finally:  # even if this is cancelled
            for seat in (*self.seats.values(), *self._ghosts):
                if seat.link is not None:
                    seat.link.abort("the pool was closed")
            for child in self._children:
                child.kill()
        self._buried = self._loop.create_future()
        if self._children:
            await self._buried
        self._guardian.close()
        self.seats.clear()
        await self.reception.close()

    def in_state(self, *states: SeatState) -> list[Seat]:
        return [seat for seat in self.seats.values() if seat.state in states]

    # --- who comes ---

    def grow(self, wants: Sequence[Want]) -> None:
        """Start processes for those who wait and for whom none is coming, and as many as there are to be at least."""
        now = self._loop.time()
        if self._closed or now < self._start_at:
            return
        coming = self.in_state(SeatState.STARTING)
        for want in list(wants):
            soon = next((seat for seat in coming if self.prospects.suits(want, seat.labels, now)), None)
            if soon is not None:
                coming.remove(soon)
                continue
            places = [place for place in range(len(self.rota.label_sets)) if self.prospects.may_start(want, place, now)]
            if not places:
                continue
            if self._ours() >= self.rota.max:
                self._make_room(wants)
                break
            self._start(min(places, key=lambda place: (not want.likes(self.rota.label_sets[place]), self._of(place))))
            if self._loop.time() < self._start_at:
                return  # that one failed: not the next at once
        while self._ours() < self.rota.min and self._loop.time() >= self._start_at:
            self._start(min(range(len(self.rota.label_sets)), key=self._of))

    def _ours(self) -> int:
        return sum(seat.child is not None for seat in self.seats.values())

    def _of(self, place: int) -> int:
        """Return how many processes have these labels."""
        return sum(seat.child is not None and seat.place == place for seat in self.seats.values())

    def _make_room(self, wants: Sequence[Want]) -> None:
        """Have an idle process go that nobody who waits can use."""
        for seat in self.in_state(SeatState.IDLE):
            offer = seat.offer
            if seat.child is not None and offer is not None and all(want.against(offer) for want in wants):
                self.leave(seat, "another kind of worker is needed")
                return

    def _start(self, place: int) -> None:
        rota = self.rota
        labels = rota.label_sets[place]
        seat = Seat(f"w{next(self._numbers)}-{secrets.token_hex(3)}", labels, secrets.token_urlsafe(32))
        seat.place = place
        seat.turn(SeatState.STARTING, self._loop.time())
        told = rota.setup.first_line(
            address=self.reception.address, token=seat.token, worker=seat.id, labels=labels, capacity=rota.capacity
        )
        try:
            child = ChildProcess(
                rota.setup.command(),
                told,
                on_exit=lambda code: self._exited(seat, code),
                guardian=self._guardian,
                env=rota.setup.environment(self.token),
            )
        except OSError as error:
            self._failed(seat, f"no process can be started: {error}")
            return
        seat.child = child
        self._children.add(child)
        self.seats[seat.id] = seat

    def _token_of(self, worker: str) -> str | None:
        seat = self.seats.get(worker)
        if seat is None:
            return None if self._closed else self.token
        return seat.token if seat.state is SeatState.STARTING and seat.link is None else None

    def _admit(self, hello: Hello, link: Link) -> None:
        seat = self.seats.get(hello.worker)
        if seat is None:
            seat = Seat(hello.worker, hello.labels, self.token)
            self.seats[seat.id] = seat
        else:
            self._failures = 0
            self.why_not = ""
            self.prospects.offers[seat.place] = Offer.of(hello)
        seat.offer = Offer.of(hello)
        seat.link = link
        link.on_message = lambda message: self._said(seat, message)
        link.on_closed = lambda why: self._disconnected(seat, why)
        seat.turn(SeatState.IDLE, self._loop.time())
        self._tell("joined" if seat.child is None else "started", seat.id, "", "")
        self._changed()

    def _refused(self, who: str, why: str) -> None:
        self._tell("refused", who, "", why)

    def _failed(self, seat: Seat, why: str) -> None:
        """Note that a process could not be started, and wait before the next."""
        self._failures += 1
        wait_s = min(FIRST_BACKOFF_S * 2 ** min(self._failures - 1, 30), MAX_BACKOFF_S)
        self._start_at = self._loop.time() + wait_s
        if self._failures >= PATIENT_STARTS:
            self.why_not = why
        _log.warning("worker.start_failed worker=%s again_in_s=%.1f because=%s", seat.id, wait_s, why)
        self._tell("start_failed", seat.id, "", why)
        if not self._closed:
            self._loop.call_later(wait_s, self._changed)
            self._changed()

    # --- here ---

    def _said(self, seat: Seat, message: dict[str, Any]) -> None:
        if seat.state is SeatState.LOST:
            self._late(seat, message)
            return
        if message.get("m") == "bye":
            seat.draining = True
            if seat.state is SeatState.IDLE:
                seat.turn(SeatState.LEAVING, self._loop.time())
        if seat.worker is not None:
            seat.worker.on_message(message)

    def _late(self, seat: Seat, message: dict[str, Any]) -> None:
        """Refuse what a worker says that was given up: its attempts are somebody else's by now."""
        _log.warning("worker.late worker=%s said=%s", seat.id, message.get("m"))
        self._tell("late", seat.id, "", str(message.get("m")))
        if seat.link is not None:
            seat.link.send({"m": "bye", "why": "it was silent for too long and counts as lost", "lost": True})

    def freed(self, seat: Seat) -> None:
        """Take a seat back from whoever had it."""
        seat.worker = None
        if seat.state is SeatState.LENT:
            seat.turn(SeatState.LEAVING if seat.draining else SeatState.IDLE, self._loop.time())
            self._changed()

    def _tick(self) -> None:
        """Look for who is silent, and who is not needed."""
        now = self._loop.time()
        if now - self._ticked_at > 2 * self._tick_s + 0.1:
            for seat in self.in_state(*HERE):  # we did not listen: what they said waits
                if seat.link is not None:
                    seat.link.heard_at = now
                elif seat.state is SeatState.STARTING:
                    seat.since = now
        self._ticked_at = now
        self._timer = self._loop.call_later(self._tick_s, self._tick)
        for seat in list(self.seats.values()):
            silent_s = 0.0 if seat.link is None else now - seat.link.heard_at
            if seat.state is SeatState.STARTING and now - seat.since > self.rota.start_s:
                self.lose(seat, f"it did not come in within {self.rota.start_s:g} s")
            elif seat.state in (SeatState.IDLE, SeatState.LENT) and silent_s > self.rota.lease_s:
                self.lose(seat, f"it was silent for {silent_s:.1f} s")
            elif seat.state is SeatState.LEAVING and now - seat.since > DRAIN_S:
                self.lose(seat, "it was to go, and did not")
        ours = [seat for seat in self.in_state(SeatState.IDLE) if seat.child is not None]
        ours.sort(key=lambda seat: seat.since)
        beyond = self._ours() - self.rota.min
        for seat in ours[: max(0, beyond)]:
            if now - seat.since >= self.rota.idle_s:
                self.leave(seat, "it is not needed")
        self._changed()

    # --- going ---

    def leave(self, seat: Seat, why: str) -> None:
        """Have a worker go that has nothing to do."""
        if seat.link is None:  # it is still starting
            if seat.child is not None:
                seat.child.kill()
            self._remove(seat)
            return
        seat.turn(SeatState.LEAVING, self._loop.time())
        seat.link.send({"m": "bye", "why": why})
        if seat.child is not None:
            self._loop.call_later(LEAVE_S, seat.child.kill)

    def _remove(self, seat: Seat) -> None:
        del self.seats[seat.id]
        if not self.seats and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def end(self, seat: Seat, why: str) -> None:
        """Kill a worker because whoever had it says so."""
        self.lose(seat, why)

    def lose(self, seat: Seat, why: str) -> None:
        """Give a worker up."""
        if self.seats.get(seat.id) is not seat:
            return
        self._remove(seat)
        was, brief = seat.state, self._loop.time() - seat.since < USEFUL_S
        seat.turn(SeatState.LOST, self._loop.time())
        if seat.child is not None:
            seat.child.kill()
            if seat.link is not None:
                seat.link.abort(why)
        elif seat.link is not None:
            self._ghosts.add(seat)
        if was is SeatState.LEAVING:
            self._tell("left", seat.id, "", "")
        elif was is SeatState.STARTING or (seat.child and was is SeatState.IDLE and not seat.served and brief):
            words = "" if seat.child is None else seat.child.last_words
            self._failed(seat, f"{why}; its last words: {words}" if words else why)
            return
        else:
            self._lost(seat, why)
        self._changed()

    def _lost(self, seat: Seat, why: str) -> None:
        worker, seat.worker = seat.worker, None
        _log.warning("worker.lost worker=%s because=%s", seat.id, why)
        self._tell("lost", seat.id, "" if worker is None else worker.program, why)
        if worker is not None and worker.lost is None:
            worker.lost = why
            worker.on_lost(why)

    def _exited(self, seat: Seat, code: int) -> None:
        if seat.child is not None:
            self._children.discard(seat.child)
        if not self._children and self._buried is not None and not self._buried.done():
            self._buried.set_result(None)
        seat.ended = ended_how(code)
        if seat.link is None or seat.disconnected:
            self.lose(seat, seat.ended)
        else:  # what it said last is still to be read
            self._loop.call_later(LAST_FRAMES_S, self.lose, seat, seat.ended)

    def _disconnected(self, seat: Seat, why: str) -> None:
        seat.disconnected = True
        self._ghosts.discard(seat)
        if seat.child is None or seat.ended:
            self.lose(seat, seat.ended or why)
        else:  # its exit code says more
            self._loop.call_later(LAST_FRAMES_S, self.lose, seat, why)

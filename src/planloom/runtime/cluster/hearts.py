"""Turns of many runs at once, and the hearts that are kept between them.

Rule 1: a heart that is kept is only what is read less: what others recorded meanwhile is replayed into it first.
Rule 2: a heart that decided something which is not known to be durable is thrown away.
Rule 3: a run that cannot be decided about holds up no other one.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from planloom.core.machine import RunMachine
from planloom.errors import JournalConflictError, JournalError, JournalFormatError
from planloom.plan.frozen import frozen
from planloom.ports import Recorded
from planloom.runtime.cluster.inputs import Fate, Received
from planloom.runtime.cluster.turns import RunTurn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from planloom.journal.postgres.work import Decided, LockedRun, Work
    from planloom.ports import Clock
    from planloom.runtime.cluster.inputs import Input
    from planloom.runtime.cluster.outbox import Placing

_log = logging.getLogger("planloom.cluster")

KEPT_RUNS = 2_000
KEPT_EVENTS = 500_000
"""Events of all runs together whose hearts are kept: what they weigh goes with that."""


class SharedTable(Protocol):
    """Where the runs are: `journal.postgres.shared.SharedRuns`."""

    async def turn(self, known: Mapping[str, int], decide: Callable[[LockedRun], Decided | None]) -> None: ...


@frozen
class Done:
    """What came of a batch of inputs, all of it durable.

    Attributes:
        answers: What became of each input, in order.
        opened: Work to be published.
        stopped: Work whose workers are to be told that it stops.
        void: Work that is to be taken from where it was put.
        news: What is new on record, by run.
        missed: What others recorded before that since this agent's last turn, by run.
        wake_at: When runs have to be looked at again though nothing comes in.
    """

    answers: Sequence[Received]
    opened: Sequence[Work] = ()
    stopped: Sequence[Work] = ()
    void: Sequence[Work] = ()
    news: Mapping[str, Sequence[Recorded]] = field(default_factory=dict)
    missed: Mapping[str, Sequence[Recorded]] = field(default_factory=dict)
    wake_at: Mapping[str, float] = field(default_factory=dict)


class _SpoiledError(Exception):
    """A transaction is tried again, and the heart of one of its runs has decided already."""


class Hearts:
    """Takes turns with runs.

    Args:
        keep: Runs whose hearts are kept.
    """

    def __init__(self, shared: SharedTable, placing: Placing, clock: Clock, *, keep: int = KEPT_RUNS) -> None:
        self._shared = shared
        self._placing = placing
        self._clock = clock
        self._keep = keep
        self._kept: OrderedDict[str, RunMachine] = OrderedDict()
        self._events = 0

    def forget(self) -> None:
        """Keep nothing: what was read may be of a server that is gone."""
        self._kept.clear()
        self._events = 0

    async def take(self, inputs: Sequence[Input]) -> Done:
        """Have these inputs decided about, each run once; all of it is durable on return.

        No other call may be under way for one of their runs.

        Raises:
            JournalError: Nothing was written, or nobody knows whether it was; bring them again.
        """
        by_run: dict[str, list[int]] = {}
        for place, one in enumerate(inputs):
            by_run.setdefault(one.run_id, []).append(place)
        try:
            return await self._try(inputs, by_run, known={run_id: self._pop(run_id) for run_id in by_run})
        except _SpoiledError:
            return await self._try(inputs, by_run, known=dict.fromkeys(by_run))
        except (JournalConflictError, JournalFormatError) as error:
            why = error.message
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001 - what one run brings out must not stop the others
            _log.exception("a turn failed: this is a bug")
            why = f"a bug: {type(error).__name__}"
        if len(by_run) > 1:  # each alone: it is one of them
            return await self._each_alone(inputs, by_run)
        _log.error("run %s is left as it is: %s", next(iter(by_run)), why)
        return Done([Received(Fate.BROKEN, why)] * len(inputs))

    async def _each_alone(self, inputs: Sequence[Input], by_run: Mapping[str, list[int]]) -> Done:
        found: dict[int, Received] = {}
        parts = []
        for places in by_run.values():
            part = await self.take([inputs[place] for place in places])
            found |= dict(zip(places, part.answers, strict=True))
            parts.append(part)
        return Done(
            [found[place] for place in range(len(inputs))],
            [work for part in parts for work in part.opened],
            [work for part in parts for work in part.stopped],
            [work for part in parts for work in part.void],
            {run_id: news for part in parts for run_id, news in part.news.items()},
            {run_id: missed for part in parts for run_id, missed in part.missed.items()},
            {run_id: at for part in parts for run_id, at in part.wake_at.items()},
        )

    async def _try(
        self, inputs: Sequence[Input], by_run: Mapping[str, list[int]], known: dict[str, RunMachine | None]
    ) -> Done:
        turns: dict[str, tuple[RunTurn | None, RunMachine, list[Received], Decided | None, int]] = {}

        missed: dict[str, Sequence[Recorded]] = {}

        def decide(locked: LockedRun) -> Decided | None:
            kept = known[locked.run_id]
            if kept is not None and locked.run_id in turns:
                raise _SpoiledError
            machine = kept or RunMachine(locked.run_id)
            mine = [inputs[place] for place in by_run[locked.run_id]]
            turn, answers, decided = self._decide(locked, machine, mine)
            turns[locked.run_id] = turn, machine, answers, decided, locked.last_seq
            missed[locked.run_id] = locked.events
            return decided

        seqs = {run_id: 0 if kept is None else kept.state.seq for run_id, kept in known.items()}
        await self._shared.turn(seqs, decide)
        found: dict[int, Received] = {}
        for run_id, (turn, machine, answers, _, _) in turns.items():
            found |= dict(zip(by_run[run_id], answers, strict=True))
            if turn is not None and not machine.ended:
                self._put(run_id, machine)
        done = [(run_id, turn, decided, last) for run_id, (turn, _, _, decided, last) in turns.items() if turn]
        return Done(
            [found[place] for place in range(len(inputs))],
            [work for _, _, decided, _ in done if decided is not None for work in decided.opened],
            [work for _, turn, _, _ in done for work in turn.stopped],
            [work for _, turn, _, _ in done for work in turn.void],
            {run_id: _recorded(decided, last) for run_id, _, decided, last in done if decided and decided.events},
            {run_id: events for run_id, events in missed.items() if events},
            {run_id: decided.wake_at for run_id, _, decided, _ in done if decided and decided.wake_at is not None},
        )

    def _decide(
        self, locked: LockedRun, machine: RunMachine, inputs: list[Input]
    ) -> tuple[RunTurn | None, list[Received], Decided | None]:
        """Return the turn of a run, what became of the inputs, and what follows; without a turn nothing does."""
        if locked.problem is not None:
            why = locked.problem.message
            _log.error("run %s is left as it is: %s", locked.run_id, why)
            return None, [Received(Fate.BROKEN, why)] * len(inputs), None
        if locked.last_seq and locked.driver != "cluster":
            refused = Received(Fate.REFUSED, f"run {locked.run_id!r} is not the cluster's: an engine drives it")
            return None, [refused] * len(inputs), None
        try:
            machine.replay(entry.event for entry in locked.events)
            turn = RunTurn(machine, locked, self._placing, self._clock.now())
            decided = turn.take(inputs)
        except Exception as error:  # noqa: BLE001 - a bug that one run brings out must not stop the others
            _log.exception("run %s is left as it is: this is a bug", locked.run_id)
            return None, [Received(Fate.BROKEN, f"a bug: {type(error).__name__}")] * len(inputs), None
        return turn, turn.answers, decided

    # --- what is kept -------------------------------------------------------------------------

    def _pop(self, run_id: str) -> RunMachine | None:
        machine = self._kept.pop(run_id, None)
        if machine is not None:
            self._events -= machine.state.seq
        return machine

    def _put(self, run_id: str, machine: RunMachine) -> None:
        self._kept[run_id] = machine
        self._events += machine.state.seq
        while self._kept and (len(self._kept) > self._keep or self._events > KEPT_EVENTS):
            _, oldest = self._kept.popitem(last=False)
            self._events -= oldest.state.seq


def _recorded(decided: Decided, last_seq: int) -> list[Recorded]:
    pairs = zip(decided.causes, decided.events, strict=True)
    return [Recorded(seq, cause, event) for seq, (cause, event) in enumerate(pairs, start=last_seq + 1)]

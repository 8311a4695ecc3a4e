"""What people say to runs: answers and resolutions, stop, rest, go on.

Rule 1: what is said is durable before anybody is told that it is.
Rule 2: one thing at a time is said to one run; a run that nobody drives is taken up to hear it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from planloom.core.events import CancelRequested, PauseRequested
from planloom.core.result import RunStatus
from planloom.errors import RunStateError
from planloom.runtime.people import answer_fact, resolution_fact
from planloom.runtime.reading import RunOnRecord, read_run

if TYPE_CHECKING:
    from planloom.runtime.engine import Engine
    from planloom.server.bodies import AnswerBody, ResolutionBody
    from planloom.server.hands import RunHands, Said
    from planloom.server.locks import NamedLocks


class Steering:
    """Says to runs what people say, wherever they are driven.

    Args:
        hands: Whose the runs are.
        locks: By run, for doing one thing at a time with it.
    """

    def __init__(self, engine: Engine, hands: RunHands, locks: NamedLocks) -> None:
        self._engine = engine
        self._journal = engine.journal
        self._hands = hands
        self._locks = locks

    async def answer(self, run_id: str, body: AnswerBody, *, by: str) -> tuple[Said, bool | None]:
        """Answer an approval; return what is on record now, and whether somebody takes it up.

        Raises:
            RunNotFoundError: No such run.
            RunStateError: No such approval waits, or another one.
            ValidationError: What was filled in does not fit the form.
        """

        def fact(run: RunOnRecord, at: float) -> Said:
            return answer_fact(
                run.state, body.step, by=by, approved=body.approved, output=body.output, at=at, binding=body.binding
            )

        return await self._say(run_id, fact)

    async def resolve(self, run_id: str, body: ResolutionBody, *, by: str) -> tuple[Said, bool | None]:
        """Say what came of a step whose outcome is unknown; as `answer`."""

        def fact(run: RunOnRecord, at: float) -> Said:
            return resolution_fact(run.state, body.step, body.how, by=by, output=body.output, error=body.error, at=at)

        return await self._say(run_id, fact)

    async def cancel(self, run_id: str, *, by: str, reason: str) -> tuple[Said, bool | None]:
        """Ask a run to stop; on record on return. Asked again of a cancelled run, it says so again."""

        def fact(run: RunOnRecord, at: float) -> Said:
            if run.result.status is not RunStatus.CANCELLED:
                _unended(run, "cancel")
            return CancelRequested(by, at, reason)

        return await self._say(run_id, fact, take_up=lambda run: True)

    async def pause(self, run_id: str, *, by: str) -> tuple[Said, bool | None]:
        """Have nothing new start; on record on return."""

        def fact(run: RunOnRecord, at: float) -> Said:
            _unended(run, "pause")
            return PauseRequested(by, at)

        return await self._say(run_id, fact, take_up=lambda run: False)

    async def resume(self, run_id: str) -> str:
        """Go on with a run that is paused, or that nobody drives; one that goes on, or has ended, stays as it is.

        Raises:
            RunNotFoundError: No such run.
            RunBusyError: Another process drives it.
            RunStateError: It was asked to pause, and what is under way has not ended yet.
        """
        async with self._locks.alone(run_id):
            await self._hands.resume(run_id)
            return run_id

    async def _say(
        self,
        run_id: str,
        make: Callable[[RunOnRecord, float], Said],
        *,
        take_up: Callable[[RunOnRecord], bool] = lambda run: not run.state.paused,
    ) -> tuple[Said, bool | None]:
        """Leave a fact with a run, and have it heard: here at once, elsewhere by whoever drives it.

        Args:
            take_up: Whether a run that nobody drives is taken up, so that it hears.
        """
        async with self._locks.alone(run_id):
            on_record = await read_run(self._journal, run_id)
            fact = make(on_record, self._engine.clock.now())
            if on_record.machine.ended:  # nothing is left to be told
                return fact, None
            if await self._hands.tell(run_id, fact):
                return fact, True
            await self._journal.post(run_id, fact)
            if on_record.driven or not take_up(on_record):
                return fact, on_record.driven
            return fact, await self._hands.take_up(run_id)


def _unended(run: RunOnRecord, what: str) -> None:
    if run.machine.ended:
        raise RunStateError(
            f"run {run.result.run_id!r} has ended: {run.result.status.value}", remedy=f"there is nothing to {what}"
        )

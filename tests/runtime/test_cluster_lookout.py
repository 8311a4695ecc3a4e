"""What an agent looks for: that a broker which is away costs no look, and no row its turn."""

from __future__ import annotations

import asyncio
from typing import Any

from planloom import MemoryJournal
from planloom.errors import BrokerError, JetStreamError
from planloom.journal.postgres.work import Work
from planloom.runtime.cluster.bodies import command_subject
from planloom.runtime.cluster.inputs import Input, Lost
from planloom.runtime.cluster.lookout import Lookout
from planloom.runtime.cluster.settings import ClusterSettings
from planloom.testing.clock import ManualClock
from planloom.transport.nats.stranded import Stranded

WORK = Work("r", "s", 1, 1, "token", "main", "", "{}", 0.0, sent_at=1.0)
CHECK_S = 0.04
WITHIN_S = 10.0


class Rows:
    """Rows of work that are taken to be looked for, and nobody else's for a while then."""

    def __init__(self) -> None:
        self.unsent_again: list[float] = []
        self.quiet_before: list[float] = []
        self.looked = asyncio.Event()

    async def unsent(self, before: float, limit: int, *, again_s: float) -> list[Work]:
        self.unsent_again.append(again_s)
        return []

    async def quiet(self, before: float, limit: int, *, again_s: float) -> list[Work]:
        self.quiet_before.append(before)
        self.looked.set()
        return [WORK]

    async def due(self, now: float, limit: int) -> list[str]:
        return []


class Link:
    """A connection to a broker that is away, or has some messages, and consumers that are done up to one number."""

    def __init__(self) -> None:
        self.is_up = False
        self.answers = True
        self.floor = 0
        self.messages: dict[str, dict[int, str]] = {"CMD": {}, "IN": {}}

    async def api(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if not self.answers and ".CMD" in name:
            raise BrokerError("no answer")
        if name.startswith("CONSUMER.INFO."):
            return {"ack_floor": {"stream_seq": self.floor}}
        assert body is not None
        messages = self.messages[name.rpartition(".")[2]]
        if name.startswith("STREAM.MSG.DELETE."):
            del messages[body["seq"]]
            return {}
        for number, subject in messages.items():
            if subject == body.get("last_by_subj") or number >= body.get("seq", 99):
                return {"message": {"seq": number, "subject": subject, "data": ""}}
        raise JetStreamError("no message", number=10037)


def made(link: Any, rows: Any, settings: ClusterSettings, clock: ManualClock, tell: Any, take: Any = None) -> Lookout:
    return Lookout(link, rows, MemoryJournal(), settings, clock, tell, take)


def test_no_row_is_taken_while_the_broker_is_away_and_a_look_at_all_that_fails_is_made_again() -> None:
    async def main() -> None:
        rows, link, found = Rows(), Link(), asyncio.Queue[Input]()
        clock = ManualClock()
        settings = ClusterSettings(check_s=CHECK_S)
        lookout = made(link, rows, settings, clock, found.put_nowait)
        lookout.check_all()
        lookout.start()
        for _ in range(10):
            await asyncio.sleep(CHECK_S / 4)
        assert rows.unsent_again == rows.quiet_before == []

        link.is_up, link.answers = True, False
        await rows.looked.wait()
        rows.looked.clear()
        await rows.looked.wait()
        link.answers = True
        lost = await found.get()
        await lookout.close()

        assert isinstance(lost, Lost)
        assert lost.is_nowhere
        assert set(rows.unsent_again) == {CHECK_S}
        assert len(set(rows.quiet_before[:3])) == 1  # ahead of time, each time, until it was done once
        assert rows.quiet_before[0] > clock.now()

    asyncio.run(asyncio.wait_for(main(), WITHIN_S))


def test_what_a_killed_broker_has_and_takes_for_done_with_is_taken_up_again() -> None:
    async def main() -> None:
        link, rows = Link(), Rows()
        found, taken = asyncio.Queue[Input](), asyncio.Queue[Stranded]()
        link.is_up, link.floor = True, 7
        link.messages = {"CMD": {5: command_subject(WORK)}, "IN": {3: "pl.in.submit.r", 9: "pl.in.submit.later"}}
        settings = ClusterSettings(check_s=CHECK_S)
        lookout = made(link, rows, settings, ManualClock(), found.put_nowait, taken.put_nowait)
        lookout.start()
        lost, stranded = await found.get(), await taken.get()
        await stranded.ack()
        await lookout.close()

        assert isinstance(lost, Lost)
        assert (stranded.sequence, stranded.subject) == (3, "pl.in.submit.r")
        assert link.messages == {"CMD": {}, "IN": {9: "pl.in.submit.later"}}

    asyncio.run(asyncio.wait_for(main(), WITHIN_S))


def test_what_is_with_a_worker_is_left_there() -> None:
    async def main() -> None:
        link, rows, found = Link(), Rows(), asyncio.Queue[Input]()
        link.is_up, link.floor = True, 4
        link.messages["CMD"] = {5: command_subject(WORK)}
        lookout = made(link, rows, ClusterSettings(check_s=CHECK_S), ManualClock(), found.put_nowait)
        lookout.start()
        for _ in range(3):
            await rows.looked.wait()
            rows.looked.clear()
        await lookout.close()

        assert found.empty()
        assert link.messages["CMD"]

    asyncio.run(asyncio.wait_for(main(), WITHIN_S))

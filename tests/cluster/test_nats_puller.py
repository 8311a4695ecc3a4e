"""Pulling: as much as there is room for, through restarts of the broker, and nothing lost when it ends."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from planloom.transport.nats import subjects
from planloom.transport.nats.puller import Delivery, Puller
from planloom.transport.nats.streams import CMD, StreamTerms, backlog, ensure_streams, ensure_workers
from tests.cluster.links import linked
from tests.cluster.servers import comes

if TYPE_CHECKING:
    from planloom.transport.nats.link import BrokerLink
    from tests.cluster.servers import Nats

MOMENT = 3
"""Messages that a server may give out while it hears that nobody listens any more."""


async def ask_for(link: BrokerLink, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        subject = subjects.command("mail", "", f"r{number}", "fetch", 1, 0)
        await link.store(subject, str(number).encode(), msg_id=subject)


class Desk:
    """Takes messages, as many as it has room for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken: list[Delivery] = []
        self.most_at_once = 0
        self.done = 0

    def take(self, delivery: Delivery) -> None:
        self.taken.append(delivery)
        self.most_at_once = max(self.most_at_once, len(self.taken) - self.done)

    def free(self) -> int:
        return self.room - (len(self.taken) - self.done)

    async def finish_one(self) -> None:
        await self.taken[self.done].ack()
        self.done += 1


def test_never_more_is_taken_than_there_is_room_for_and_all_of_it_in_order(nats: Nats) -> None:
    async def main() -> Desk:
        async with linked(nats) as link:
            consumer = await ensure_workers(link, "mail")
            await ask_for(link, 30)
            desk = Desk(3)
            puller = Puller(link, CMD, consumer, desk.take, room=desk.free)
            puller.start("_INBOX.desk")
            while desk.done < 30:
                await comes(lambda: len(desk.taken) > desk.done)
                await desk.finish_one()
                puller.more()
            await puller.withdraw()
            await comes(lambda: backlog_is_empty(link, consumer))
        return desk

    desk = asyncio.run(main())

    assert [one.body for one in desk.taken] == [str(number).encode() for number in range(30)]
    assert desk.most_at_once == 3
    assert {one.deliveries for one in desk.taken} == {1}


def test_messages_that_come_one_by_one_leave_few_requests_open(nats: Nats) -> None:
    """Each one that is open costs a sign of life each second, at both ends."""

    async def main() -> int:
        async with linked(nats) as link:
            consumer = await ensure_workers(link, "mail")
            desk = Desk(64)
            puller = Puller(link, CMD, consumer, desk.take, room=desk.free)
            puller.start("_INBOX.desk")
            for number in range(40):
                await ask_for(link, 1, first=number)
                await comes(lambda: len(desk.taken) > desk.done)
                await desk.finish_one()
                puller.more()
            told = await link.api(f"CONSUMER.INFO.{CMD}.{consumer}")
            await puller.withdraw()
        return int(told["num_waiting"])

    assert asyncio.run(main()) <= 5


async def backlog_is_empty(link: BrokerLink, consumer: str) -> bool:
    left = await backlog(link, CMD, consumer)
    return not left.waiting and not left.in_flight


def test_a_limit_over_all_workers_does_not_slow_down_what_is_within_it(nats: Nats) -> None:
    async def main() -> float:
        async with linked(nats) as link:
            consumer = await ensure_workers(link, "mail", max_in_flight=2)
            await ask_for(link, 20)
            desk = Desk(8)
            puller = Puller(link, CMD, consumer, desk.take, room=desk.free)
            began = time.monotonic()
            puller.start("_INBOX.desk")
            while desk.done < 20:
                await comes(lambda: len(desk.taken) > desk.done)
                await desk.finish_one()
                puller.more()
            took_s = time.monotonic() - began
            await puller.withdraw()
            assert desk.most_at_once <= 2
        return took_s

    assert asyncio.run(main()) < 2.0  # a request that sat on a part of its batch would take a second for each pair


def test_messages_come_again_after_a_restart_and_after_the_loss_of_the_store(nats: Nats) -> None:
    async def main() -> list[bytes]:
        desk = Desk(10)
        pullers: list[Puller] = []
        async with linked(nats, on_back=lambda: [one.forget() for one in pullers]) as link:
            consumer = await ensure_workers(link, "mail")
            pullers.append(Puller(link, CMD, consumer, desk.take, room=desk.free, heartbeat_s=0.2))
            pullers[0].start("_INBOX.desk")
            for round_number in range(2):
                await ask_for(link, 1, first=round_number)
                await comes(lambda count=round_number + 1: len(desk.taken) == count)
                await desk.finish_one()
                losses = link.losses
                await asyncio.to_thread(nats.restart, empty=round_number == 1)
                await comes(lambda before=losses: link.is_up and link.losses > before)
            await ensure_streams(link, StreamTerms())
            await ensure_workers(link, "mail")
            await ask_for(link, 1, first=2)
            await comes(lambda: len(desk.taken) == 3)
            await pullers[0].withdraw()
        return [one.body for one in desk.taken]

    assert asyncio.run(main()) == [b"0", b"1", b"2"]


def test_a_puller_that_ends_hears_out_what_is_on_its_way(nats: Nats) -> None:
    async def main() -> tuple[int, int]:
        async with linked(nats) as link, linked(nats, terms=None) as other:
            consumer = await ensure_workers(link, "mail")
            taken: list[Delivery] = []
            puller = Puller(link, CMD, consumer, taken.append, room=lambda: 300 - len(taken))
            puller.start("_INBOX.desk")
            asking = asyncio.create_task(ask_for(other, 250))
            await comes(lambda: len(taken) > 20)
            await puller.withdraw()
            await asking
            left = await backlog(link, CMD, consumer)
            return len(taken), left.in_flight

    taken, given_out = asyncio.run(main())

    assert given_out < 250
    assert given_out - taken <= MOMENT


def test_what_was_asked_for_is_asked_for_again_as_soon_as_there_is_a_connection(nats: Nats) -> None:
    async def main() -> float:
        desk = Desk(10)
        pullers: list[Puller] = []
        async with linked(nats, on_back=lambda: [one.forget() for one in pullers]) as link:
            consumer = await ensure_workers(link, "mail")
            pullers.append(Puller(link, CMD, consumer, desk.take, room=desk.free, heartbeat_s=2.0))
            pullers[0].start("_INBOX.desk")
            await comes(lambda: pullers[0].asked)
            await asyncio.to_thread(nats.restart)
            await comes(lambda: link.is_up and link.losses)
            await ask_for(link, 1)
            await comes(lambda: desk.taken, within_s=2)
            await pullers[0].withdraw()
            return len(desk.taken)

    assert asyncio.run(main()) == 1


def test_where_there_is_no_consumer_yet_it_waits_for_one(nats: Nats) -> None:
    async def main() -> int:
        async with linked(nats, terms=None) as link:
            desk = Desk(1)
            puller = Puller(link, CMD, subjects.consumer("mail"), desk.take, room=desk.free)
            puller.start("_INBOX.desk")
            await ensure_streams(link, StreamTerms())
            await ensure_workers(link, "mail")
            await ask_for(link, 1)
            await comes(lambda: desk.taken)
            await puller.withdraw()
            return len(desk.taken)

    assert asyncio.run(main()) == 1

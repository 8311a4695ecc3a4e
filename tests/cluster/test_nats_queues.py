"""What scales workers on many machines reads."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from planloom.runtime.cluster.queues import queues_text
from planloom.transport.nats import subjects
from planloom.transport.nats.commands import send
from planloom.transport.nats.streams import ensure_workers
from tests.cluster.links import linked

if TYPE_CHECKING:
    from tests.cluster.servers import Nats


def test_each_queue_tells_what_waits_and_what_is_under_way_and_an_unknown_one_nothing(nats: Nats) -> None:
    async def main() -> str:
        async with linked(nats) as link:
            for place in ("", "region=eu"):
                await ensure_workers(link, "mail", place)
            for number in range(3):
                subject = subjects.command("mail", "region=eu", f"r{number}", "s", 1, 0)
                await send(link, subject, b"", msg_id=str(number))
            return await queues_text(link, [("mail", ""), ("mail", "region=eu"), ("nobody", "")])

    lines = asyncio.run(main()).splitlines()

    assert 'planloom_cluster_commands_waiting{capability="mail",place=""} 0' in lines
    assert 'planloom_cluster_commands_waiting{capability="mail",place="region=eu"} 3' in lines
    assert 'planloom_cluster_commands_in_flight{capability="mail",place="region=eu"} 0' in lines
    assert not any("nobody" in line for line in lines)

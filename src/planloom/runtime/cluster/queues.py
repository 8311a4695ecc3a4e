"""How much waits for whom in a cluster, as Prometheus reads it: what scales workers on many machines goes by that.

Rule 1: a queue of which the broker tells nothing is left out: a gap says more than a nought.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planloom.errors import BrokerError
from planloom.observe.instruments import Form, Instrument
from planloom.observe.prometheus import exposition
from planloom.transport.nats import subjects
from planloom.transport.nats.streams import CMD, Backlog, backlog

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planloom.transport.nats.link import BrokerLink

_LABELS = ("capability", "place")
WAITING = Instrument(
    "planloom.cluster.commands.waiting", Form.GAUGE, "{attempt}", "Attempts that no worker was given.", _LABELS
)
IN_FLIGHT = Instrument(
    "planloom.cluster.commands.in_flight", Form.GAUGE, "{attempt}", "Attempts that a worker has.", _LABELS
)


async def queues_text(link: BrokerLink, queues: Iterable[tuple[str, str]]) -> str:
    """Return both gauges of each queue.

    Args:
        queues: Capability and place of each; "" is any place.
    """
    found: dict[tuple[str, ...], Backlog] = {}
    for capability, place in queues:
        try:
            found[capability, place] = await backlog(link, CMD, subjects.consumer(capability, place))
        except BrokerError:
            continue
    return exposition(
        [
            (WAITING, {queue: has.waiting for queue, has in found.items()}),
            (IN_FLIGHT, {queue: has.in_flight for queue, has in found.items()}),
        ]
    )

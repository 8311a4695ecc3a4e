"""The streams and consumers of a cluster: made where they are missing, and kept as the settings say.

Rule 1: nothing is dropped to make room: what does not fit is refused, and whoever sent it hears so.
Rule 2: what is here can be rebuilt from the record: a store that was lost is made anew, empty.
Rule 3: no setting that nats-server 2.9 does not know.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.errors import ConfigError, JetStreamError
from planloom.transport.nats import subjects

if TYPE_CHECKING:
    from planloom.transport.nats.link import BrokerLink

CMD, IN, EVT, DLQ = "CMD", "IN", "EVT", "DLQ"
ORCH, BURIERS = "orch", "dlq"
"""The consumers of IN and of DLQ."""
MAX_DELIVER = 4
MANY = 65_536
"""Messages that a consumer without a limit of its own may have out at a time."""
_NS = 1_000_000_000
_NOT_NOW = 503
"""What servers of one cluster answer while they have no leader."""
_NO_PEERS = 10005
"""The broker's number for: too few servers of one cluster are up."""
LOOKS, LOOK_S = 10, 0.1
"""How often, and how far apart in seconds, a stream is looked for that could not be made: another agent may make it."""
_ABSENT = {10059, 10014}
"""The broker's numbers for: no such stream, no such consumer."""


@dataclass(frozen=True, slots=True)
class StreamTerms:
    """How large the streams may grow, and how safe they are.

    Attributes:
        max_queued: Commands that may wait or be under way; more are refused.
        max_submissions: Inputs that may wait for an agent.
        replicas: Servers that hold each message; 1 or 3.
        lease_s: Seconds after which what nobody gives signs of life for is given to somebody else.
        news_s: Seconds that events are kept for those who follow.
    """

    max_queued: int = 100_000
    max_submissions: int = 100_000
    replicas: int = 1
    lease_s: float = 30.0
    news_s: float = 3600.0

    def streams(self) -> list[dict[str, Any]]:
        queue = {"retention": "workqueue", "discard": "new", "storage": "file", "num_replicas": self.replicas}
        return [
            {
                "name": CMD,
                "subjects": [subjects.ALL_COMMANDS],
                "max_msgs": self.max_queued,
                "max_msgs_per_subject": 1,
                "discard_new_per_subject": True,
                **queue,
            },
            {"name": IN, "subjects": [subjects.ALL_INPUTS], "max_msgs": self.max_submissions, **queue},
            {
                "name": DLQ,
                "subjects": [f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{CMD}.*"],
                "max_msgs": self.max_queued,
                **queue,
            },
            {
                "name": EVT,
                "subjects": [subjects.ALL_NEWS],
                "retention": "limits",
                "discard": "old",
                "storage": "memory",
                "max_age": int(self.news_s * _NS),
                "max_msgs": 1_000_000,
                "max_bytes": 256 * 1024 * 1024,
                "num_replicas": 1,
            },
        ]


async def ensure_streams(link: BrokerLink, terms: StreamTerms) -> list[str]:
    """Make the streams and the agents' own consumers where they are missing; return the names of those made.

    Raises:
        ConfigError: One is there that is not ours, or cannot become what the settings say.
        BrokerError: The broker gives no answer.
    """
    made = [told["name"] for told in terms.streams() if await _ensure_stream(link, told)]
    for stream, name in ((IN, ORCH), (DLQ, BURIERS)):
        # An input is handed in again for as long as it takes: it is never poison, only early.
        await _ensure_consumer(link, stream, name, "", ack_wait_s=terms.lease_s, max_deliver=-1, max_ack_pending=MANY)
    return made


async def ensure_workers(
    link: BrokerLink, capability: str, place: str = "", *, lease_s: float = 30.0, max_in_flight: int | None = None
) -> str:
    """Make the consumer that the workers of a capability at a place share; return its name.

    Args:
        max_in_flight: Attempts of it that may be under way at a time; None: no limit but the workers' own.
    """
    name = subjects.consumer(capability, place)
    await _ensure_consumer(
        link,
        CMD,
        name,
        subjects.commands_of(capability, place),
        ack_wait_s=lease_s,
        max_deliver=MAX_DELIVER,
        max_ack_pending=max_in_flight or MANY,
    )
    return name


async def _ensure_stream(link: BrokerLink, told: dict[str, Any]) -> bool:
    name = told["name"]
    try:
        has = (await link.api(f"STREAM.INFO.{name}"))["config"]
    except JetStreamError as error:
        if error.facts["number"] not in _ABSENT:
            raise
        try:
            await _made(link, f"STREAM.CREATE.{name}", told)
        except ConfigError:
            if await _is_there(link, name):
                return False
            raise
        return True
    if any(has.get(key) != value for key, value in told.items()):
        if has.get("retention") != told["retention"] or has.get("storage") != told["storage"]:
            raise ConfigError(
                f"the broker has a stream {name} that is another one", remedy="give planloom an account of its own"
            )
        await _made(link, f"STREAM.UPDATE.{name}", has | told)
    return False


async def _is_there(link: BrokerLink, name: str) -> bool:
    """Return whether somebody else makes a stream at this moment: what it reserves, the broker counts twice."""
    for _ in range(LOOKS):
        with suppress(JetStreamError):
            await link.api(f"STREAM.INFO.{name}")
            return True
        await asyncio.sleep(LOOK_S)
    return False


async def _ensure_consumer(
    link: BrokerLink,
    stream: str,
    name: str,
    filtered: str,
    *,
    ack_wait_s: float,
    max_deliver: int,
    max_ack_pending: int,
) -> None:
    told: dict[str, Any] = {
        "durable_name": name,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "replay_policy": "instant",
        "ack_wait": int(ack_wait_s * _NS),
        "max_deliver": max_deliver,
        "max_ack_pending": max_ack_pending,
        "max_waiting": MANY,
    }
    if filtered:
        told["filter_subject"] = filtered
    try:
        has = (await link.api(f"CONSUMER.INFO.{stream}.{name}"))["config"]
    except JetStreamError as error:
        if error.facts["number"] not in _ABSENT:
            raise
    else:
        if all(has.get(key) == value for key, value in told.items()):
            return
        told = has | told
    await _made(link, f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"stream_name": stream, "config": told})


async def _made(link: BrokerLink, name: str, told: dict[str, Any]) -> None:
    try:
        await link.api(name, told)
    except JetStreamError as error:
        if error.facts.get("status") == _NOT_NOW or error.facts["number"] == _NO_PEERS:
            raise
        raise ConfigError(
            f"{name}: {error.facts['words']}", remedy="look at [cluster], and at what else uses this account"
        ) from error


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much a consumer has before it.

    Attributes:
        waiting: Messages that nobody was given yet.
        in_flight: Those that somebody has and has not acknowledged.
        redelivered: Those of them that were given out more than once.
    """

    waiting: int
    in_flight: int
    redelivered: int


async def backlog(link: BrokerLink, stream: str, consumer: str) -> Backlog:
    """Return how much a consumer has before it.

    Raises:
        BrokerError: There is no such consumer, or no answer.
    """
    told = await link.api(f"CONSUMER.INFO.{stream}.{consumer}")
    return Backlog(told["num_pending"], told["num_ack_pending"], told["num_redelivered"])

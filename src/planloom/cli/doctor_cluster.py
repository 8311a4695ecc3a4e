"""What `planloom doctor` says of a cluster: the credential, the broker, its streams, who works, the clocks.

Rule 1: it looks only: it makes no stream and no consumer.
Rule 2: what a credential may not ask is left out, and is no fault: a worker's may ask next to nothing.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planloom.cli.finding import Finding, Grade
from planloom.errors import BrokerError, BrokerRefusedError, ConfigError, JetStreamError
from planloom.observe.looks import counted, duration_text
from planloom.runtime.cluster.settings import MAIN, ClusterSettings, cluster_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planloom.cli.project import Workplace
    from planloom.transport.nats.credentials import Credential
    from planloom.transport.nats.link import BrokerLink

SOON_S = 600.0
"""A credential that ends within this time should have been renewed by now."""
OFF_S = 1.0
"""Clocks that differ by more have attempts end too early or too late."""
ASK_S = 2.0


def cluster_findings(place: Workplace) -> Iterator[Finding]:
    """Look at the cluster that the settings name; nothing where they name none."""
    if not place.settings.cluster:
        return
    try:
        settings = cluster_settings(place.settings.cluster, folder=place.file.parent if place.file else None)
    except ConfigError as error:
        yield Finding("cluster", Grade.WRONG, error.message, error.remedy)
        return
    made: Credential | None = None
    if settings.credentials is not None:
        try:
            from planloom.transport.nats.credentials import is_private, read_credential

            made = read_credential(Path(settings.credentials))
        except ConfigError as error:
            yield Finding("cluster credential", Grade.WRONG, error.message, error.remedy)
            return
        yield credential_finding(made, Path(settings.credentials), private=is_private(Path(settings.credentials)))
    yield from asyncio.run(_broker(settings, made))


def credential_finding(made: Credential, path: Path, *, private: bool, now: float | None = None) -> Finding:
    """Say until when a credential counts, and whether somebody else can read it."""
    about, now = "cluster credential", time.time() if now is None else now
    whose = f"{path}: {made.role.value} {made.name}" + (f" of module {made.module}" if made.module else "")
    anew = "make it anew with `planloom cluster credential`; --keep does so from then on"
    if made.expires_at is not None and made.expires_at <= now:
        ended = duration_text(now - made.expires_at)
        return Finding(about, Grade.WRONG, f"{whose}; it ended {ended} ago", anew)
    if not private:
        return Finding(about, Grade.WRONG, f"{whose}; others on this machine can read it", f"chmod 600 {path}")
    if made.expires_at is None:
        return Finding(about, Grade.OK, f"{whose}; it does not end")
    left_s = made.expires_at - now
    words = f"{whose}; it ends in {duration_text(left_s)}"
    soon = left_s < min(SOON_S, (made.expires_at - made.issued_at) / 4)
    return Finding(about, Grade.HINT if soon else Grade.OK, words, anew if soon else "")


async def _broker(settings: ClusterSettings, made: Credential | None) -> list[Finding]:
    try:
        from planloom.transport.nats.link import Broker, BrokerLink
    except ConfigError as error:
        return [Finding("cluster broker", Grade.WRONG, error.message, error.remedy)]
    files = [None if path is None else Path(path) for path in (settings.credentials, settings.ca)]
    link = BrokerLink(Broker(settings.nats, files[0], "planloom doctor", ca=files[1]))
    try:
        await asyncio.wait_for(link.open(), 10)
    except (BrokerError, BrokerRefusedError, TimeoutError) as error:
        words = getattr(error, "message", "") or "the broker gives no answer"
        return [Finding("cluster broker", Grade.WRONG, words, getattr(error, "remedy", "") or "start nats-server")]
    try:
        findings = [version_finding(link.version), *_payload(link.max_payload)]
        if made is None or made.role.value == "agent":
            findings += await _streams(link, settings)
        return findings
    finally:
        await link.close()


def version_finding(version: tuple[int, ...]) -> Finding:
    """Say whether a server is new enough."""
    from planloom.transport.nats.server_conf import ADVISED, OLDEST

    words = "nats-server " + ".".join(str(part) for part in version) + " answers"
    newer = f"install nats-server {'.'.join(str(part) for part in ADVISED)} or newer"
    if version < OLDEST:
        return Finding("cluster broker", Grade.WRONG, f"{words}; it is too old", newer)
    if version < ADVISED:
        return Finding("cluster broker", Grade.HINT, f"{words}; newer ones have mended faults of streams", newer)
    return Finding("cluster broker", Grade.OK, words)


def _payload(most: int) -> Iterator[Finding]:
    from planloom.transport.nats.server_conf import MAX_PAYLOAD_BYTES

    if most < MAX_PAYLOAD_BYTES:
        words = f"a message may have {most:,} bytes: a step whose input or output is larger fails"
        yield Finding(
            "cluster messages", Grade.HINT, words, f"set max_payload: {MAX_PAYLOAD_BYTES} in nats-server.conf"
        )


async def _streams(link: BrokerLink, settings: ClusterSettings) -> list[Finding]:
    from planloom.transport.nats.streams import CMD, IN, ORCH
    from planloom.transport.nats.subjects import consumer

    about = "cluster streams"
    try:
        await link.api("INFO", timeout_s=ASK_S)
    except (BrokerError, JetStreamError) as error:
        remedy = "start nats-server with -js, or give this account JetStream"
        return [Finding(about, Grade.WRONG, f"JetStream gives no answer: {error.message}", remedy)]
    told = {name: await _told(link, f"STREAM.INFO.{name}") for name in (CMD, IN)}
    if None in told.values():
        return [Finding(about, Grade.HINT, "there are none yet", "start an agent: `planloom agent`")]
    words = ", ".join(f"{one['state']['messages']} in {name}" for name, one in told.items() if one is not None)
    findings = [Finding(about, Grade.OK, words)]
    agents = await _told(link, f"CONSUMER.INFO.{IN}.{ORCH}")
    findings.append(_takers("cluster agents", agents, "start one: `planloom agent`"))
    for module in settings.modules or (MAIN,):
        workers = await _told(link, f"CONSUMER.INFO.{CMD}.{consumer(module)}")
        remedy = f"start one: `planloom worker --nats … --capability {module}`"
        findings.append(_takers(f"cluster workers {module}", workers, remedy))
    return [*findings, *clock_finding(told[CMD], time.time())]


def _takers(about: str, told: dict[str, Any] | None, remedy: str) -> Finding:
    """Say how much waits for somebody, and whether anybody takes it."""
    if told is None:
        return Finding(about, Grade.HINT, "nothing was asked of them yet", remedy)
    words = f"{counted(told['num_pending'], 'message')} waiting, {told['num_ack_pending']} under way"
    if told["num_waiting"]:
        return Finding(about, Grade.OK, words)
    if told["num_ack_pending"]:
        return Finding(about, Grade.OK, f"{words}, nobody has room for more")
    return Finding(about, Grade.HINT, f"{words}, nobody there", remedy)


def clock_finding(told: dict[str, Any] | None, now: float) -> Iterator[Finding]:
    """Say how far this machine's clock is from the server's; nothing where an older server does not tell its own."""
    text = str((told or {}).get("ts", ""))
    with suppress(ValueError):
        off_s = abs(now - datetime.fromisoformat(text).timestamp())
        words = f"{duration_text(off_s)} from the broker's"
        remedy = "have both machines take the time from the network (NTP)" if off_s > OFF_S else ""
        yield Finding("cluster clock", Grade.HINT if remedy else Grade.OK, words, remedy)


async def _told(link: BrokerLink, name: str) -> dict[str, Any] | None:
    try:
        return await link.api(name, timeout_s=ASK_S)
    except (BrokerError, JetStreamError):
        return None

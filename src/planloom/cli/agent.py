"""The command that starts an agent of a cluster: it decides about runs, and makes no attempts itself.

Rule 1: any number of agents may work at the same time, and any of them may be killed at any moment.
Rule 2: told to go, it sees to what came in before; told twice, it goes at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planloom import blocking
from planloom.cli.exits import Exit
from planloom.cli.options import Invocation, broker_options, shared
from planloom.cli.project import Workplace
from planloom.cli.signals import answering
from planloom.errors import ConfigError
from planloom.journal.address import is_address, spelled_out
from planloom.journal.memory import MemoryJournal
from planloom.observe.logs import configure
from planloom.runtime.engine import Engine

if TYPE_CHECKING:
    from planloom.cli.output import Screen
    from planloom.runtime.cluster.settings import ClusterSettings
    from planloom.transport.nats.link import Broker

AGAIN_S = 0.5
"""Seconds between two tries to reach a database that is not there yet."""


@click.command()
@broker_options
@click.option("--metrics-port", type=click.IntRange(0, 65_535), help="Port for /metrics and /healthz; 0 for any.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Address for them.")
@shared(tools=True)
def agent(
    call: Invocation, servers: tuple[str, ...], creds: str | None, metrics_port: int | None, metrics_host: str
) -> None:
    """Decide about the runs of a cluster, over PostgreSQL and NATS.

    The journal has to be a database: --journal postgresql://user@host/name. The tools are only looked at: workers call
    them. Ends after SIGTERM, once what came in before is seen to.
    """
    screen, place = call.screen(), Workplace(call)
    settings = cluster_of(place, servers=servers, creds=creds)
    logging = place.settings.logging
    configure(format=logging.format, level=logging.level)
    dsn = spelled_out(database_of(place))
    with screen.only_answers_on_stdout():
        blocking.run(_working(place, settings, dsn, screen, metrics_port, metrics_host))


def cluster_of(place: Workplace, *, servers: tuple[str, ...] = (), creds: str | None = None) -> ClusterSettings:
    """Return the settings of the cluster, with what the command line says in place of what stands there."""
    _need_cluster()
    from planloom.runtime.cluster.settings import cluster_settings

    over: dict[str, Any] = {"nats": servers} if servers else {}
    over |= {"credentials": str(Path(creds).resolve())} if creds is not None else {}
    return cluster_settings(place.settings.cluster, folder=place.file.parent if place.file else None, **over)


def broker_of(settings: ClusterSettings, name: str) -> Broker:
    from planloom.transport.nats.link import Broker

    files = [None if path is None else Path(path) for path in (settings.credentials, settings.ca)]
    return Broker(settings.nats, files[0], name, ca=files[1])


def database_of(place: Workplace) -> str:
    """Return the address of the journal's database.

    Raises:
        ConfigError: The journal is none.
    """
    if not is_address(place.journal):
        raise ConfigError(
            f"the journal of a cluster is a database, and {place.journal} is none",
            remedy="give --journal postgresql://user@host/name, or set journal in planloom.toml",
        )
    return place.journal


def _need_cluster() -> None:
    try:
        import nats  # noqa: F401 - only to see that they are there
        import psycopg  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a cluster needs the package {error.name}, which is not installed",
            remedy="pip install 'planloom[cluster]'",
        ) from error


async def _reached(dsn: str, screen: Screen) -> None:
    """Wait for a database that is not there yet, as the broker is waited for: all of them may start at once.

    Raises:
        JournalWriteError: It cannot be reached, or does not let us in.
    """
    from psycopg import Error

    from planloom.journal.postgres.connect import Server
    from planloom.journal.postgres.faults import is_away, journal_error
    from planloom.runtime.cluster.orchestrator import WAIT_S

    def connected() -> None:
        with server.connect():
            pass

    server, loop = Server(dsn), asyncio.get_running_loop()
    end, told = loop.time() + WAIT_S, False
    while True:
        try:
            await asyncio.to_thread(connected)
        except Error as error:
            wrong = journal_error(error, server.place)
            if not is_away(error) or loop.time() > end:
                raise wrong from error
            if not told:
                screen.note(f"it waits: {wrong.message}")
                told = True
            await asyncio.sleep(AGAIN_S)
        else:
            return


async def _working(
    place: Workplace,
    settings: ClusterSettings,
    dsn: str,
    screen: Screen,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    from planloom.journal.postgres.journal import PostgresJournal
    from planloom.journal.postgres.shared import SharedRuns
    from planloom.runtime.cluster.health import telling
    from planloom.runtime.cluster.orchestrator import Orchestrator

    tools, key, here = await place.all_tools(screen.note), place.settings.journal_key(), place.settings_here
    over = asyncio.Event()

    def told() -> None:
        if over.is_set():
            os._exit(Exit.INTERRUPTED)
        over.set()

    await _reached(dsn, screen)
    async with AsyncExitStack() as ending:
        shared = SharedRuns(dsn, key=key)
        ending.push_async_callback(shared.close)
        journal = PostgresJournal(dsn, key=key)
        ending.push_async_callback(journal.close)
        engine = Engine(MemoryJournal(), tools=tools, allow=here.allow, settings=here)
        await ending.enter_async_context(engine)
        one = Orchestrator(broker_of(settings, "planloom-agent"), shared, journal, engine, settings)
        await ending.enter_async_context(one)
        if metrics_port is not None:
            port = await ending.enter_async_context(telling(one, metrics_host, metrics_port))
            screen.note(f"metrics on http://{metrics_host}:{port}/metrics")
        screen.note(f"agent {one.name} is ready")
        with answering((signal.SIGINT, signal.SIGTERM), told):
            await over.wait()
            screen.note("it sees to what came in before, and goes")
    screen.note("it has ended; other agents, or the next one, go on")

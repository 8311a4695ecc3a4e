"""`planloom serve`: runs over HTTP, until the process is told to end.

Rule 1: an address that other machines can reach is refused where there is no token.
Rule 2: whoever ends the process ends no run: what is under way is let go of, and the next start takes it up.
"""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planloom import blocking
from planloom.cli.agent import broker_of, cluster_of, database_of
from planloom.cli.mcp_serving import listening_on
from planloom.cli.options import Invocation, broker_options, shared
from planloom.cli.project import Workplace
from planloom.cli.signals import answering
from planloom.errors import ConfigError
from planloom.journal.address import is_address, spelled_out
from planloom.journal.open import open_database
from planloom.observe.logs import configure
from planloom.observe.metrics import Metrics
from planloom.runtime.engine import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from planloom.cli.output import Screen
    from planloom.runtime.cluster.settings import ClusterSettings
    from planloom.server.service import RunService
    from planloom.server.settings import ServerSettings

END_S = 5.0
"""Seconds that requests under way have to end, once the process is told to."""
LOGGERS = ("planloom", "uvicorn", "asyncio")
"""Whose lines are written, and struck of secrets: each of them logs tracebacks of ours."""


@click.command()
@shared(tools=True)
@click.option("--host", metavar="ADDRESS", help="Address to listen on; default: that of planloom.toml, else 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port; 0 for any that is free. Default: of planloom.toml, else 8765."
)
@click.option(
    "--plans",
    "folders",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of plans that may be run by name; may be given again. Default: those of planloom.toml.",
)
@click.option("--no-page", is_flag=True, help="Serve programs only, and no page.")
@click.option(
    "--cluster/--no-cluster",
    "clustered",
    default=None,
    help="Have a cluster see to the runs, or this process. Default: a cluster where planloom.toml has [cluster] and the"
    " journal is a database.",
)
@broker_options
def serve(
    call: Invocation,
    host: str | None,
    port: int | None,
    folders: tuple[Path, ...],
    no_page: bool,
    clustered: bool | None,
    servers: tuple[str, ...],
    creds: str | None,
) -> None:
    """Serve runs over HTTP, and a page to look at them.

    Runs that were under way when it last ended go on. Tokens and limits stand below [server] in planloom.toml; without
    tokens only this machine is served. With a cluster, runs are submitted to its agents, and none is driven here.
    """
    settings_of = _server_parts()
    screen, place = call.screen(), Workplace(call, plan=folders[0] if folders else None)
    over: dict[str, Any] = {} if host is None else {"host": host}
    over |= {} if port is None else {"port": port}
    over |= {"plans": [str(folder.resolve()) for folder in folders]} if folders else {}
    at = place.file.parent if place.file is not None else Path.cwd()
    settings = settings_of(place.settings.server, folder=at.resolve(), **over)
    if settings.is_public and not settings.tokens:
        raise ConfigError(
            f"{settings.host} can be reached from other machines, and there is no token",
            remedy='set one: [server.tokens.me] with env = "VARIABLE" and scopes = ["read", "submit", …]',
        )
    if clustered is None:
        is_named = "cluster" in place.settings.model_fields_set or bool(servers)
        clustered = is_named and is_address(place.journal)
    cluster = cluster_of(place, servers=servers, creds=creds) if clustered else None
    logging = place.settings.logging
    configure(format=logging.format, level=logging.level, loggers=LOGGERS)
    with screen.only_answers_on_stdout():
        blocking.run(_served(place, settings, cluster, screen, page=not no_page))


def _server_parts() -> Any:
    """Return what reads the settings of a server; ConfigError where the extra is not installed."""
    try:
        import fastapi  # noqa: F401 - only to see that it is there
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"serving needs the package {error.name}, which is not installed", remedy="pip install 'planloom[server]'"
        ) from error
    from planloom.server.settings import server_settings

    return server_settings


async def _served(
    place: Workplace, settings: ServerSettings, cluster: ClusterSettings | None, screen: Screen, *, page: bool
) -> None:
    from planloom.server.app import make_app

    metrics = Metrics()
    async with _service(place, settings, cluster, screen, metrics) as service:
        app = make_app(service, settings, page=page, metrics=metrics)
        with listening_on(settings.host, settings.port) as listening:
            shown = f"[{settings.host}]" if ":" in settings.host else settings.host
            screen.note(f"listening on http://{shown}:{listening.getsockname()[1]}")
            if not settings.tokens:
                screen.note("there are no tokens: every program and user of this machine may use it")
            await _serving(app, service, listening)
    goes_on = "with the next start" if cluster is None else "in the cluster"
    screen.note(f"ended; runs that were under way go on {goes_on}")


@asynccontextmanager
async def _service(
    place: Workplace, settings: ServerSettings, cluster: ClusterSettings | None, screen: Screen, metrics: Metrics
) -> AsyncIterator[RunService]:
    """Have what serves runs while the block lasts: those of this process, or a cluster's."""
    from planloom.server.plans import NamedPlans
    from planloom.server.service import RunService

    tools, here, plans = await place.all_tools(screen.note), place.settings_here, NamedPlans(settings.plans)
    if cluster is None:
        async with Engine(place.journal, tools=tools, allow=here.allow, settings=here, metrics=metrics) as engine:
            yield RunService(engine, plans, settings)
        return
    from planloom.journal.postgres.shared import SharedRuns
    from planloom.runtime.cluster.capabilities import Capabilities
    from planloom.server.cluster import RunsOfCluster

    address, key = database_of(place), place.settings.journal_key()
    async with AsyncExitStack() as ending:
        journal = open_database(address, key=key)
        ending.push_async_callback(journal.close)
        shared = SharedRuns(spelled_out(address), key=key, connections=1)
        ending.push_async_callback(shared.close)
        engine = Engine(journal, tools=tools, allow=here.allow, settings=here, metrics=metrics)
        await ending.enter_async_context(engine)
        capabilities = Capabilities(cluster.modules, engine.tools)
        broker = broker_of(cluster, "planloom-serve")
        hands = RunsOfCluster(engine, broker, journal, shared, capabilities)
        screen.note("a cluster sees to the runs")
        yield RunService(engine, plans, settings, hands=hands)


async def _serving(app: Any, service: RunService, listening: Any) -> None:
    from planloom.server.wire import server_of

    server = server_of(app, end_s=END_S)

    def end() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True
        service.end_streams()

    with answering((signal.SIGINT, signal.SIGTERM), end):
        await server.serve(sockets=[listening])
    if not server.started:
        raise ConfigError("the server could not start", remedy="see what is logged above")

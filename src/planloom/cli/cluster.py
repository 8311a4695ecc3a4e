"""Commands of whoever sets a cluster up: its keys, who may connect as what, and taking that back.

Rule 1: nothing secret is printed: keys and credentials go into files that only their owner may read.
Rule 2: what changes rights says what the servers must do before it counts, and does it where the server is here.
"""

from __future__ import annotations

import asyncio
import re
import signal
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planloom.cli.options import Invocation, shared
from planloom.cli.project import Workplace
from planloom.errors import ConfigError
from planloom.journal.address import spelled_out
from planloom.observe.looks import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from planloom.transport.nats.authority import ClusterAuthority
    from planloom.transport.nats.credentials import Credential
    from planloom.transport.nats.mint import CredentialMint

DEFAULT_FOLDER = ".planloom/cluster"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Return a length of time, e.g. ``90s``, ``30m``, ``1h`` or ``7d``, in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", (value or "").strip())
    if found is None and value is not None:
        raise click.BadParameter(f"{value!r} is no length of time: write e.g. 90s, 30m, 1h or 7d", context, parameter)
    return None if found is None else float(found[1]) * _SECONDS[found[2]]


def _in_folder(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_FOLDER,
        show_default=True,
        envvar="PLANLOOM_CLUSTER",
        show_envvar=True,
        help="Where the cluster's keys are.",
    )(function)


def _operator(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--operator-key",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="The operator's key, where it is kept apart from the others.",
    )(function)


@click.group()
def cluster() -> None:
    """Set up a cluster's keys, and who may do what in it."""


@cluster.command()
@shared(journal=False)
@click.argument("folder", metavar="[FOLDER]", type=click.Path(file_okay=False, path_type=Path), default=DEFAULT_FOLDER)
@click.option("--module", "modules", multiple=True, metavar="NAME", help="A module; default: those of planloom.toml.")
@click.option("--listen", default="127.0.0.1:4222", show_default=True, metavar="[HOST:]PORT", help="Of the server.")
@click.option("--tls-cert", type=click.Path(path_type=Path), metavar="FILE", help="Certificate of the server.")
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="Key of that certificate.")
@click.option("--max-store", default="10GB", show_default=True, metavar="SIZE", help="Most it may take of the disk.")
@click.option("--monitor", type=click.IntRange(1, 65_535), metavar="PORT", help="Monitoring pages, on this machine.")
@click.option(
    "--nats-version", metavar="VERSION", help="Of the server that will run; default: that of the nats-server here."
)
def init(
    call: Invocation,
    folder: Path,
    modules: tuple[str, ...],
    listen: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    max_store: str,
    monitor: int | None,
    nats_version: str | None,
) -> None:
    """Make a cluster's keys, its server's settings, and the first credentials.

    Each module gets an account of its own, in which nothing exists but its own work. The server listens on this machine
    alone, unless there is a certificate.
    """
    from planloom.transport.nats.authority import AGENT_FILE, CONF_FILE, SUBMITTER_FILE, ClusterAuthority
    from planloom.transport.nats.server_conf import ServerConf

    host, port = _address(listen)
    conf = ServerConf(
        host=host,
        port=port,
        certificate=tls_cert,
        key=tls_key,
        max_store=max_store,
        monitor=monitor,
        version=_version(nats_version),
    )
    made = ClusterAuthority.made(folder, conf, modules=modules or _modules_of_settings(call))
    first = f"--module {made.modules()[0]} --worker NAME"
    answer = {"folder": str(folder), "conf": str(folder / CONF_FILE), "modules": made.modules()}
    lines = [
        f"{folder} holds the keys of a new cluster, for {counted(len(made.modules()), 'module')}: "
        + ", ".join(made.modules()),
        f"  start its server    nats-server -c {folder / CONF_FILE}",
        f"  agents connect with {folder / AGENT_FILE}",
        f"  submitters with     {folder / SUBMITTER_FILE}",
        f"  workers with what   planloom cluster credential --folder {folder} {first}",
        f"keep {folder / 'keys/operator.nk'} apart from this machine: only new modules, `revoke` and `rotate` need it",
    ]
    call.screen().answer(answer, "\n".join(lines))


@cluster.command()
@shared(journal=False)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_in_folder
@_operator
def module(call: Invocation, names: tuple[str, ...], folder: Path, operator_key: Path | None) -> None:
    """Give modules their accounts. Nothing changes for those that have one."""
    from planloom.transport.nats.permissions import checked_module

    authority = _authority(folder, operator_key)
    for name in names:
        checked_module(name)
    added = [name for name in names if authority.add_module(name)]
    _told(call, folder, {"added": added}, f"{counted(len(added), 'module')} added: {', '.join(added)}" if added else "")


@cluster.command()
@shared(journal=False)
@click.option("--module", "module_name", metavar="NAME", help="With --worker: whose work it takes.")
@click.option("--worker", metavar="NAME", help="Of a worker.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Of the worker: where it takes work too.")
@click.option("--agent", metavar="NAME", help="Of an agent.")
@click.option("--submitter", metavar="NAME", help="Of whoever submits runs.")
@click.option("--system", metavar="NAME", help="Of whoever looks after the servers.")
@click.option(
    "--ttl",
    callback=_seconds,
    metavar="TIME",
    help="How long it counts, e.g. 90s, 1h, 7d; default: 1h for a worker, else for ever.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write it; default: creds/.")
@click.option("--keep", is_flag=True, help="Stay, and write it anew at half its life.")
@_in_folder
def credential(
    call: Invocation,
    module_name: str | None,
    worker: str | None,
    labels: tuple[str, ...],
    agent: str | None,
    submitter: str | None,
    system: str | None,
    ttl: float | None,
    out: Path | None,
    keep: bool,
    folder: Path,
) -> None:
    """Make a credential: of one worker of a module, an agent, a submitter, or whoever looks after the servers.

    A worker may take its module's work and tell its outcomes, and nothing else.
    """
    from planloom.transport.nats.mint import WORKER_TTL_S, CredentialMint, keep_fresh
    from planloom.transport.nats.subjects import token

    named = [name for name in (worker, agent, submitter, system) if name is not None]
    if len(named) != 1 or (worker is None) != (module_name is None) or (labels and worker is None):
        raise ConfigError(
            "whose credential is it?",
            remedy="give --module and --worker, or one of --agent, --submitter and --system, each with a name",
        )
    mint = CredentialMint(folder)

    def make() -> Credential:
        if worker is not None and module_name is not None:
            return _of_worker(mint, module_name, worker, labels, WORKER_TTL_S if ttl is None else ttl)
        if agent is not None:
            return mint.agent(agent, ttl_s=ttl)
        if submitter is not None:
            return mint.submitter(submitter, ttl_s=ttl)
        return mint.system(str(system), ttl_s=ttl)

    screen = call.screen()
    made = make()
    path = out or folder / f"creds/{token(made.module or made.role.value)}-{token(made.name)}.creds"
    made.write(path)
    until = "for ever" if made.expires_at is None else f"until {_moment(made.expires_at)}"
    screen.answer({"file": str(path), **made.facts()}, f"{path}: {made.role} {made.name}, {until}")
    if keep and made.expires_at is not None:
        asyncio.run(_stay(keep_fresh(path, make, first=made)))


@cluster.command()
@shared(journal=False)
@click.argument("whose", metavar="NAME|KEY|FILE")
@_in_folder
@_operator
def revoke(call: Invocation, whose: str, folder: Path, operator_key: Path | None) -> None:
    """Take credentials back, by name, public key or file: whoever has them is cut off."""
    keys = _authority(folder, operator_key).revoke(whose)
    _told(call, folder, {"revoked": keys}, f"{counted(len(keys), 'credential')} revoked: {', '.join(keys)}")


@cluster.command()
@shared(journal=False)
@click.option("--module", "module_name", metavar="NAME", help="Of this module alone; default: of everybody.")
@_in_folder
@_operator
def rotate(call: Invocation, module_name: str | None, folder: Path, operator_key: Path | None) -> None:
    """Replace signing keys: every credential made so far ends, and is to be made anew."""
    authority = _authority(folder, operator_key)
    authority.rotate(module=module_name)
    whose = module_name or "everybody"
    _told(call, folder, {"rotated": whose}, f"new signing keys of {whose}; credentials are to be made anew")


@cluster.command()
@shared(journal=False)
@_in_folder
def issued(call: Invocation, folder: Path) -> None:
    """List the credentials that were made with this folder and count still."""
    listed = _authority(folder, None).counting()
    lines = [
        f"{one['role']:<10} {one['module'] or '-':<12} {one['name']:<20} "
        f"{'for ever' if one['expires_at'] is None else 'until ' + _moment(one['expires_at']):<26} {one['key']}"
        for one in listed
    ]
    call.screen().answer(listed, "\n".join(lines) or "none")


@cluster.command()
@shared()
def database(call: Invocation) -> None:
    """Make the journal in a PostgreSQL database, and the roles that may use it.

    With the login of whoever owns the database: --journal postgresql://owner@host/name. Harmless when repeated, and to
    be repeated after each upgrade.
    """
    place = Workplace(call).journal
    if isinstance(place, Path):
        raise ConfigError(f"{place} is no database", remedy="give --journal postgresql://owner@host/name")
    try:
        from psycopg import Error

        from planloom.journal.postgres.connect import Server
        from planloom.journal.postgres.faults import journal_error
        from planloom.journal.postgres.schema import prepare
    except ImportError:
        raise ConfigError(
            "what talks with PostgreSQL is not installed", remedy="pip install 'planloom[postgres]'"
        ) from None
    server = Server(spelled_out(place))
    prepare(server)
    try:
        with server.connect() as connection, connection.transaction():
            connection.execute(_roles().encode())
    except Error as error:
        raise journal_error(error, server.place) from error
    login = "CREATE ROLE agent1 LOGIN IN ROLE planloom_agent"
    call.screen().answer(
        {"database": server.place},
        f"{server.place} holds a journal, and the roles planloom_agent, planloom_person and planloom_reader\n"
        f"give each program a login of one of them, e.g. {login}; workers need none",
    )


@cluster.command()
@shared(journal=False)
def roles(call: Invocation) -> None:
    """Print the SQL of these roles, for whoever runs it themselves.

    planloom_agent adds to the record and changes none of it, planloom_person answers, planloom_reader reads.
    """
    call.screen().answer({"sql": _roles()}, _roles().rstrip())


def _roles() -> str:
    return (resources.files("planloom.journal.postgres") / "roles.sql").read_text(encoding="utf-8")


def _authority(folder: Path, operator_key: Path | None) -> ClusterAuthority:
    from planloom.transport.nats.authority import ClusterAuthority

    return ClusterAuthority(folder, operator_key=operator_key)


def _told(call: Invocation, folder: Path, answer: dict[str, Any], text: str) -> None:
    """Say what was done, and have the server read it."""
    from planloom.transport.nats.authority import ACCOUNTS_FILE
    from planloom.transport.nats.server_conf import reload_server

    if not text:
        call.screen().answer({**answer, "reloaded": None}, "nothing to do")
        return
    pid = reload_server(folder)
    then = f"copy {folder / ACCOUNTS_FILE} to each server, and have it read that: nats-server --signal reload"
    if pid is not None:
        then = f"the server here (process {pid}) reads its accounts again"
    call.screen().answer({**answer, "reloaded": pid}, f"{text}\n{then}")


async def _stay(work: Any) -> None:
    """Do it until somebody ends this program."""
    task = asyncio.get_running_loop().create_task(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def _of_worker(
    mint: CredentialMint, module_name: str, worker: str, labels: tuple[str, ...], ttl_s: float
) -> Credential:
    from planloom.cli.worker import label_of

    return mint.worker(module_name, worker, labels=dict(label_of(text) for text in labels), ttl_s=ttl_s)


def _modules_of_settings(call: Invocation) -> tuple[str, ...]:
    from planloom.runtime.cluster.settings import MAIN, cluster_settings

    return tuple(cluster_settings(Workplace(call).settings.cluster).modules) or (MAIN,)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"-1|\d{1,5}", port) or not -1 <= int(port) <= 65_535 or port == "0":
        raise ConfigError(f"{text!r} is no address to listen on", remedy="give [HOST:]PORT, e.g. 127.0.0.1:4222")
    return host or "127.0.0.1", int(port)


def _version(given: str | None) -> tuple[int, ...] | None:
    import shutil

    from planloom.transport.nats.server_conf import version_in, version_of

    if given is not None:
        found = version_in(given)
        if found is None:
            raise ConfigError(f"{given!r} is no version", remedy="give e.g. 2.12.1")
        return found
    program = shutil.which("nats-server")
    return None if program is None else version_of(program)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

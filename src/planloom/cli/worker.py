"""The command that starts a worker, which makes attempts for an engine of this machine, or for a cluster.

Rule 1: the token of a pool comes from an environment variable, which is taken away before any tool is loaded.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planloom.cli.options import Invocation, shared
from planloom.cli.project import settings_file
from planloom.errors import ConfigError, suggestion

if TYPE_CHECKING:
    from planloom.runtime.nats_worker import Posting

NATS_VARIABLE = "PLANLOOM_NATS"


@click.command()
@click.option("--connect", metavar="ADDRESS", help="Of a pool: unix:/path or tcp:127.0.0.1:PORT.")
@click.option(
    "--token-env",
    default="PLANLOOM_WORKER_TOKEN",
    show_default=True,
    metavar="NAME",
    help="Environment variable that holds the pool's token.",
)
@click.option(
    "--nats",
    multiple=True,
    metavar="URL",
    envvar=NATS_VARIABLE,
    show_envvar=True,
    help="Of a cluster's broker; may be given again. In place of --connect. Default: that of planloom.toml.",
)
@click.option(
    "--creds",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Its credential in the cluster: a .creds file, which also says its module, name and labels.",
)
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Certificates to trust of the broker; default: the system's.",
)
@click.option(
    "--capability", metavar="MODULE", help="Whose work it does in a cluster; default: its credential's, or main."
)
@click.option(
    "--processes",
    metavar="MIN..MAX",
    help="So many worker processes, as there is work in the cluster; default: this one alone.",
)
@click.option(
    "--idle",
    "idle_s",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds without work after which a process beyond MIN goes.",
)
@click.option("--allow", multiple=True, metavar="TOOL", help="A tool it may use, or family.*; may be given again.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="What steps may ask for.")
@click.option("--capacity", type=click.IntRange(1, 1000), default=1, show_default=True, help="Attempts at a time.")
@click.option("--name", help="Its name; default: host and a random part.")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for whom it works for to listen."
)
@shared(journal=False, tools=True)
def worker(
    call: Invocation,
    connect: str | None,
    token_env: str,
    nats: tuple[str, ...],
    creds: Path | None,
    ca: Path | None,
    capability: str | None,
    processes: str | None,
    idle_s: float,
    allow: tuple[str, ...],
    labels: tuple[str, ...],
    capacity: int,
    name: str | None,
    wait_s: float,
) -> None:
    """Make attempts for an engine or a cluster, with the tools here.

    Ends when its engine ends, or, after SIGTERM, when what it began has ended.
    """
    if connect is not None and nats:
        raise ConfigError("whom is it to work for?", remedy="give --connect for a pool, or --nats for a cluster")
    outfit: dict[str, Any] = {
        "worker": name or f"{socket.gethostname()}-{secrets.token_hex(4)}",
        "labels": dict(label_of(text) for text in labels),
        "capacity": capacity,
        "tools": call.tools,
        "settings": settings_file(),
        "allow": allow or None,
        "paths": (os.getcwd(),),
        "wait_s": wait_s,
    }
    if connect is not None:
        if processes is not None:
            raise ConfigError("--processes is for a cluster", remedy="a pool starts its processes by itself")
        _for_a_pool(call, connect, token_env, outfit)
        return
    posting = _posting(nats, creds, ca, capability, name, outfit)
    call.screen().note(f"worker {posting.worker} of {posting.capability}")
    if processes is None:
        from planloom.runtime.nats_worker import work_in_cluster

        call.screen().note(f"it has ended: {asyncio.run(work_in_cluster(posting))}")
    else:
        from planloom.runtime.nats_crew import keep_crew

        asyncio.run(keep_crew(posting, *_between(processes), idle_s=idle_s, tell=call.screen().note))


def _for_a_pool(call: Invocation, connect: str, token_env: str, outfit: dict[str, Any]) -> None:
    from planloom.runtime.worker import Invitation, work  # it loads every executor

    token = os.environ.pop(token_env, "")
    if not token:
        raise ConfigError(
            f"the environment variable {token_env} holds no token",
            remedy="set it to the token of the pool, WorkerPool(token=...)",
        )
    invited = Invitation(address=connect, token=token, **outfit)
    call.screen().note(f"worker {invited.worker} for {connect}")
    call.screen().note(f"it has ended: {asyncio.run(work(invited))}")


def _posting(
    nats: tuple[str, ...],
    creds: Path | None,
    ca: Path | None,
    capability: str | None,
    name: str | None,
    outfit: dict[str, Any],
) -> Posting:
    from planloom.runtime.cluster.settings import MAIN
    from planloom.runtime.nats_worker import Posting  # it loads every executor

    if creds is not None:
        from planloom.transport.nats.credentials import read_credential

        held = read_credential(creds)
        for option, given, theirs in (("--capability", capability, held.module), ("--name", name, held.name)):
            if given is not None and theirs and given != theirs:
                raise ConfigError(
                    f"{creds} is {theirs!r}'s, and {option} says {given!r}",
                    remedy="leave the option away, or mint another",
                )
        capability = held.module or capability
        outfit |= {"worker": held.name or outfit["worker"], "labels": outfit["labels"] or dict(held.labels)}
    servers, kinds = _of_the_cluster(nats, capability or MAIN, outfit)
    return Posting(servers=servers, credentials=creds, ca=ca, capability=capability or MAIN, kinds=kinds, **outfit)


def _of_the_cluster(
    nats: tuple[str, ...], capability: str, outfit: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Return where the broker is, and the kinds of steps it may do; have it use its module's tools and no others."""
    from planloom.runtime.cluster.settings import cluster_settings
    from planloom.runtime.settings import read_settings

    file = outfit["settings"]
    written = {} if file is None else read_settings(file).cluster
    if not nats and not written:
        raise ConfigError("whom is it to work for?", remedy="give --connect for a pool, or --nats for a cluster")
    cluster = cluster_settings(written)
    if not cluster.modules:
        return nats or cluster.nats, None
    module = cluster.modules.get(capability)
    if module is None:
        raise ConfigError(
            f"[cluster.modules] has no module {capability!r}", remedy=suggestion(capability, cluster.modules)
        )
    outfit["allow"] = outfit["allow"] or module.allow
    return nats or cluster.nats, module.kinds


def _between(text: str) -> tuple[int, int]:
    low, found, high = text.partition("..")
    if not found or not low.isdigit() or not high.isdigit() or not int(low) <= int(high) or not int(high):
        raise ConfigError(f"{text!r} is no number of processes", remedy="give MIN..MAX, e.g. --processes 1..4")
    return int(low), int(high)


def label_of(text: str) -> tuple[str, str]:
    """Return a label's name and value; ConfigError if it is none."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise ConfigError(f"{text!r} is no label", remedy="give NAME=VALUE, e.g. --label region=eu")
    return name, value

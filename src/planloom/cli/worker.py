"""The command that starts a worker, which makes attempts for an engine of this machine until it is told to go.

Rule 1: the token comes from an environment variable, which is taken away before any tool is loaded.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket

import click

from planloom.cli.options import Invocation, shared
from planloom.cli.project import settings_file
from planloom.errors import ConfigError


@click.command()
@click.option("--connect", required=True, metavar="ADDRESS", help="Of the pool: unix:/path or tcp:127.0.0.1:PORT.")
@click.option(
    "--token-env",
    default="PLANLOOM_WORKER_TOKEN",
    show_default=True,
    metavar="NAME",
    help="Environment variable that holds the pool's token.",
)
@click.option("--allow", multiple=True, metavar="TOOL", help="A tool it may use, or family.*; may be given again.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="What steps may ask for.")
@click.option("--capacity", type=click.IntRange(1, 1000), default=1, show_default=True, help="Attempts at a time.")
@click.option("--name", help="Its name in the pool; default: host and a random part.")
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, help="Seconds to wait for a pool to listen.")
@shared(journal=False, tools=True)
def worker(
    call: Invocation,
    connect: str,
    token_env: str,
    allow: tuple[str, ...],
    labels: tuple[str, ...],
    capacity: int,
    name: str | None,
    wait_s: float,
) -> None:
    """Make attempts for an engine, with the tools that are here.

    Ends when its engine ends, or, after SIGTERM, when what it began has ended.
    """
    from planloom.runtime.worker import Invitation, work  # it loads every executor

    token = os.environ.pop(token_env, "")
    if not token:
        raise ConfigError(
            f"the environment variable {token_env} holds no token",
            remedy="set it to the token of the pool, WorkerPool(token=...)",
        )
    invited = Invitation(
        address=connect,
        token=token,
        worker=name or f"{socket.gethostname()}-{secrets.token_hex(4)}",
        labels=dict(label_of(text) for text in labels),
        capacity=capacity,
        tools=call.tools,
        settings=settings_file(),
        allow=allow or None,
        paths=(os.getcwd(),),
        wait_s=wait_s,
    )
    call.screen().note(f"worker {invited.worker} for {connect}")
    call.screen().note(f"it has ended: {asyncio.run(work(invited))}")


def label_of(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise ConfigError(f"{text!r} is no label", remedy="give NAME=VALUE, e.g. --label region=eu")
    return name, value

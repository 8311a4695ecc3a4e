"""The command that asks a cluster for a run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planloom.cli.agent import broker_of, cluster_of, database_of
from planloom.cli.exits import exit_of_run
from planloom.cli.inputs import read_inputs, read_limits
from planloom.cli.options import Invocation, broker_options, run_options, shared
from planloom.cli.plan import PLAN_PATH
from planloom.cli.plan_file import STDIN, PlanFile
from planloom.cli.project import Workplace
from planloom.cli.telling import say_result
from planloom.observe.looks import printable
from planloom.plan.inputs import check_inputs

if TYPE_CHECKING:
    from planloom.core.result import RunResult


@click.command()
@click.argument("plan", metavar="PLAN", type=PLAN_PATH)
@run_options
@click.option("--module", default="", metavar="NAME", help="Whose run it is, for the record.")
@broker_options
@click.option("--wait", is_flag=True, help="Wait for the run's end, and print its result. Needs the journal.")
@shared()
def submit(
    call: Invocation,
    plan: Path,
    pairs: tuple[str, ...],
    files: tuple[str, ...],
    document: Path | None,
    run_id: str | None,
    limits: tuple[str, ...],
    module: str,
    servers: tuple[str, ...],
    creds: str | None,
    wait: bool,
) -> None:
    """Ask a cluster for a run of a plan.

    PLAN is a file, or - for standard input. It is checked by an agent of the cluster, which has the tools; without
    --wait this ends once the broker has the submission.
    """
    screen, place = call.screen(), Workplace(call, plan=None if plan == STDIN else plan)
    settings = cluster_of(place, servers=servers, creds=creds)
    address = database_of(place) if wait else None
    read = PlanFile(plan).read()
    inputs = check_inputs(read, read_inputs(read, pairs=pairs, files=files, document=document))
    bounds = read_limits(read, limits, max_concurrent=None)

    async def submitted() -> tuple[str, RunResult | None]:
        from planloom.runtime.cluster.client import ClusterClient

        broker, key = broker_of(settings, "planloom-submit"), place.settings.journal_key() if wait else None
        async with ClusterClient(broker, journal=address, key=key) as client:
            name = await client.submit(read, inputs, run_id=run_id, limits=bounds, module=module)
            screen.note(f"run {printable(name)}")
            return name, await client.result(name) if wait else None

    with screen.only_answers_on_stdout():
        name, result = asyncio.run(submitted())
        if result is None:
            screen.answer({"run_id": name}, name)
        else:
            say_result(result, screen, place)
    if result is not None:
        sys.exit(exit_of_run(result.status.value))

"""Commands that drive a run: run, resume.

Rule 1: the run's id is told before its first step starts, so that a run that is killed can be resumed.
Rule 2: the first Ctrl-C cancels, on record; the second ends the process where it stands.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planloom import blocking
from planloom.cli.exits import Exit, exit_of_run
from planloom.cli.inputs import read_inputs, read_limits
from planloom.cli.options import Invocation, run_options, shared
from planloom.cli.plan import PLAN_PATH
from planloom.cli.plan_file import STDIN, PlanFile
from planloom.cli.project import Workplace
from planloom.cli.signals import answering
from planloom.cli.telling import progress_on, say_result
from planloom.core.events import RunResumed
from planloom.journal.sqlite import SqliteJournal
from planloom.observe.looks import printable
from planloom.plan.inputs import check_inputs
from planloom.runtime.engine import Engine
from planloom.runtime.reading import read_run
from planloom.runtime.run_ids import new_run_id

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from planloom.cli.output import Screen
    from planloom.cli.progress import Progress
    from planloom.core.result import RunResult
    from planloom.runtime.run import Run

_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress; only the run's id, its result and problems.")


@click.command()
@shared(tools=True)
@click.argument("plan", metavar="PLAN", type=PLAN_PATH)
@run_options
@click.option("--max-concurrent", type=click.IntRange(min=1), help="Steps under way at the same time.")
@click.option("--no-parallel", is_flag=True, help="One step at a time.")
@_quiet
def run(
    call: Invocation,
    plan: Path,
    pairs: tuple[str, ...],
    files: tuple[str, ...],
    document: Path | None,
    run_id: str | None,
    limits: tuple[str, ...],
    max_concurrent: int | None,
    no_parallel: bool,
    quiet: bool,
) -> None:
    """Run a plan.

    PLAN is a file, or - for standard input. The result goes to stdout, everything else to stderr.
    """
    screen, place = call.screen(), Workplace(call, plan=None if plan == STDIN else plan)
    file = PlanFile(plan)

    async def begin(engine: Engine) -> tuple[Run, int]:
        read = file.read(also=engine.problems_here)
        inputs = check_inputs(read, read_inputs(read, pairs=pairs, files=files, document=document))
        bounds = read_limits(read, limits, max_concurrent=max_concurrent)
        name = run_id or new_run_id()
        screen.note(f"run {printable(name)}")
        return await engine.start(read, inputs, limits=bounds, run_id=name, parallel=not no_parallel), 0

    _drive(begin, screen, place, quiet=quiet)


@click.command()
@shared(tools=True)
@click.argument("run_id", metavar="RUN")
@click.option("--failed", is_flag=True, help="Of a run that ended: start a new one that reuses what was finished.")
@click.option("--new-id", metavar="ID", help="With --failed: name of the new run.")
@_quiet
def resume(call: Invocation, run_id: str, failed: bool, new_id: str | None, quiet: bool) -> None:
    """Go on with a run that was interrupted, or that waited for an answer.

    What is on record is not done again. Of a run that has ended it says what it came to. A run of a cluster goes on
    there, once what was under way when it was paused has ended.
    """
    if new_id is not None and not failed:
        raise click.UsageError("--new-id is for --failed")
    screen, place = call.screen(), Workplace(call)
    if not failed and asyncio.run(_goes_on_in_cluster(place, run_id)):
        screen.answer({"run_id": run_id, "resumed": "cluster"}, f"run {printable(run_id)} goes on in the cluster")
        return

    async def begin(engine: Engine) -> tuple[Run, int]:
        if failed:
            name = new_id or new_run_id()
            screen.note(f"run {printable(name)}, reusing what run {printable(run_id)} finished")
            return await engine.retry_failed(run_id, new_id=name), 0
        known = await engine.journal.read(run_id)
        screen.note(f"run {printable(run_id)}")
        return await engine.resume(run_id), known[-1].seq

    _drive(begin, screen, place, quiet=quiet)


async def _goes_on_in_cluster(place: Workplace, run_id: str) -> bool:
    """Have a run go on that is a cluster's, and return whether it is; agents see to all that was interrupted."""
    journal = place.existing_journal(run_id)
    try:
        if isinstance(journal, SqliteJournal) or not await journal.is_clusters(run_id):
            return False
        if (await read_run(journal, run_id)).machine.ended:
            return False
        await journal.post(run_id, RunResumed(0, time.time()))
        return True
    finally:
        await journal.close()


def _drive(
    begin: Callable[[Engine], Coroutine[Any, Any, tuple[Run, int]]], screen: Screen, place: Workplace, *, quiet: bool
) -> None:
    """Begin a run, tell how it goes until it ends or waits, say what came of it, and exit with its code."""

    async def driven() -> RunResult:
        tools = await place.all_tools(screen.note)
        settings = place.settings_here
        async with Engine(place.journal, tools=tools, allow=settings.allow, settings=settings) as engine:
            with place.needing_servers():
                run, told = await begin(engine)
            with _ctrl_c_cancels(run, screen):
                return await _told(run, engine, progress_on(screen, quiet=quiet), after=told)

    with screen.only_answers_on_stdout():
        result = blocking.run(driven())
        say_result(result, screen, place)
    sys.exit(exit_of_run(result.status.value))


async def _told(run: Run, engine: Engine, progress: Progress, *, after: int) -> RunResult:
    """Return how the run ended or that it waits; everything on record up to then has been told."""
    last = after
    progress.begin()
    try:

        async def follow() -> None:
            nonlocal last
            async for recorded in run.follow(after=last):
                last = recorded.seq
                progress.take(recorded.event)

        follower = asyncio.get_running_loop().create_task(follow())
        try:
            result = await run.result()
        finally:
            follower.cancel()
            with suppress(asyncio.CancelledError):
                await follower
        for recorded in await engine.journal.read(run.run_id, after=last):
            progress.take(recorded.event)
    finally:
        progress.end()
    return result


@contextmanager
def _ctrl_c_cancels(run: Run, screen: Screen) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    asked: list[asyncio.Task[None]] = []

    def pressed() -> None:
        if asked:
            os._exit(Exit.INTERRUPTED)
        screen.note("cancelling; press Ctrl-C again to stop at once")
        asked.append(loop.create_task(run.cancel(by="Ctrl-C")))

    with answering((signal.SIGINT,), pressed):
        yield

"""The command that follows a run, whoever drives it: watch.

Rule 1: it only reads. Ctrl-C ends the watching and nothing else.
Rule 2: what is told is on record; nobody's word is taken but the journal's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from planloom.cli.exits import Exit, exit_of_run
from planloom.cli.options import Invocation, shared
from planloom.cli.progress import Silent
from planloom.cli.project import Workplace
from planloom.cli.telling import progress_on, say_how_it_stands
from planloom.core.machine import RunMachine
from planloom.core.report import run_result
from planloom.core.result import RunStatus
from planloom.journal.telling import entry_value
from planloom.observe.looks import printable

if TYPE_CHECKING:
    from planloom.cli.output import Screen
    from planloom.cli.progress import Progress
    from planloom.core.result import RunResult
    from planloom.journal.postgres.journal import PostgresJournal
    from planloom.journal.sqlite import SqliteJournal
    from planloom.ports import Recorded

IDLE_S = 1.0
"""Seconds without news after which it is looked at why there are none."""


@click.command()
@shared()
@click.argument("run_id", metavar="RUN")
@click.option("--until-idle", is_flag=True, help="End, too, once the run waits for a person or nobody drives it.")
def watch(call: Invocation, run_id: str, until_idle: bool) -> None:
    """Follow a run until it has ended, whichever process drives it.

    Ends with the run's own exit code; with --until-idle with 4, too, where somebody has to go on with it. With --json
    each event is a line of JSON on stdout. Ctrl-C ends the watching; the run goes on.
    """
    screen, place = call.screen(), Workplace(call)
    watching = _Watching(run_id, screen, place, until_idle=until_idle)
    try:
        result = asyncio.run(watching.until_end())
    except KeyboardInterrupt:
        screen.note(f"no longer watching run {printable(run_id)}, which goes on without it")
        sys.exit(Exit.INTERRUPTED)
    if not screen.as_json:
        if result.output is not None:
            screen.answer(None, screen.value_text(result.output))
        say_how_it_stands(result, screen, place)
    is_left = result.status is RunStatus.RUNNING  # its driver is gone: somebody has to go on with it
    sys.exit(Exit.WAITING if is_left else exit_of_run(result.status.value))


class _Watching:
    """One run as far as it was told."""

    def __init__(self, run_id: str, screen: Screen, place: Workplace, *, until_idle: bool) -> None:
        self._run_id = run_id
        self._screen = screen
        self._place = place
        self._until_idle = until_idle
        self._machine = RunMachine(run_id)
        self._progress: Progress = Silent() if screen.as_json else progress_on(screen)
        self._told = ""
        """Why nothing comes, as it was last said."""

    async def until_end(self) -> RunResult:
        """Tell all that is on record and all that comes; return how the run ended or, if that is asked for, stands."""
        journal = self._place.existing_journal(self._run_id)
        try:
            await journal.read(self._run_id, limit=1)  # no such run: said at once, and not waited for
            self._progress.begin()
            try:
                await self._follow(journal)
            finally:
                self._progress.end()
        finally:
            await journal.close()
        return self._result()

    async def _follow(self, journal: SqliteJournal | PostgresJournal) -> None:
        async with aclosing(journal.follow(self._run_id)) as entries:  # type: ignore[type-var]  # it is a generator
            coming = asyncio.ensure_future(anext(entries, None))
            try:
                while True:
                    await asyncio.wait([coming], timeout=IDLE_S)
                    if not coming.done():
                        if await self._says_why_nothing_comes(journal) and self._until_idle:
                            return
                        continue
                    entry = coming.result()
                    if entry is None:
                        return
                    self._take(entry)
                    coming = asyncio.ensure_future(anext(entries, None))
            finally:
                coming.cancel()
                await asyncio.wait([coming])

    def _take(self, entry: Recorded) -> None:
        self._machine.replay((entry.event,))
        self._told = ""
        self._progress.take(entry.event)
        if self._screen.as_json:
            self._screen.write(json.dumps(entry_value(entry), ensure_ascii=self._screen.ascii_only) + "\n")

    async def _says_why_nothing_comes(self, journal: SqliteJournal | PostgresJournal) -> bool:
        """Say once what the run waits for, if it does nothing by itself; return whether that is so."""
        waits, driven = self._machine.waits_for_person, await journal.is_driven(self._run_id)
        if not waits and driven is not False:
            return False
        lines = (
            [f"to go on: {one['command']}{self._place.hints()}" for one in self._result().blockers()] if waits else []
        )
        if driven is False:
            why = "then:    " if lines else "nobody drives it; to go on:"
            lines.append(f"{why} planloom resume {self._run_id}{self._place.hints(tools=True)}")
        text = "\n".join(lines)
        if text != self._told:
            self._told = text
            self._screen.note(text)
        return True

    def _result(self) -> RunResult:
        return run_result(self._machine.state, waiting=self._machine.waits_for_person)

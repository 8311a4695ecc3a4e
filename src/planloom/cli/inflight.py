"""The command to ask before a deploy: which runs that have not ended would go on with what is there, and why not.

Rule 1: it writes nothing and calls no tool. Tools' modules are imported, and MCP servers asked what they offer.
Rule 2: what it says of a run is what `resume` would do there: both ask `Engine`. Of a cluster's run it says what
workers do that have these tools.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planloom.cli.exits import Exit
from planloom.cli.options import Invocation, shared
from planloom.cli.project import Workplace
from planloom.core.result import RUN_ENDED
from planloom.errors import ConfigError
from planloom.journal.sqlite import SqliteJournal
from planloom.observe.looks import counted, printable
from planloom.runtime.engine import Engine
from planloom.runtime.inflight import InFlight, Outlook, Weight, on_workers
from planloom.runtime.settings import FILE_NAME

if TYPE_CHECKING:
    from planloom.cli.output import Screen

ALL_RUNS = 1_000_000


@click.command()
@shared(tools=True)
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    show_default="the current folder",
    help="Folder of the project that is to be deployed: its planloom.toml and tools.",
)
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
def inflight(call: Invocation, against: Path, run_ids: tuple[str, ...]) -> None:
    """Before a deploy: say which unfinished runs would go on with it, and why not.

    Of every such run in the journal, or of those named. Exits with 9 if one of them cannot go on.
    """
    screen, place = call.screen(), Workplace(call, plan=against / FILE_NAME)
    if place.file is None and not place.tool_sources:
        remedy = f"name the folder of the new version with --against, or its tools with --tools; {FILE_NAME} says both"
        raise ConfigError(f"there is no {FILE_NAME} in {str(against)!r}, and no tools are named", remedy=remedy)
    with screen.only_answers_on_stdout():
        found = asyncio.run(_looked_at(place, screen, run_ids))
    stranded = [one for one in found if one.verdict is Outlook.CANNOT]
    value = {"runs": [one.to_dict() for one in found], "cannot_go_on": [one.run_id for one in stranded]}
    screen.answer(value, "\n".join(_lines(found)))
    sys.exit(Exit.STRANDED if stranded else Exit.OK)


async def _looked_at(place: Workplace, screen: Screen, run_ids: tuple[str, ...]) -> list[InFlight]:
    if not place.has_journal and not run_ids:
        return []
    journal = place.existing_journal(run_ids[0] if run_ids else "")
    try:
        names = list(run_ids)
        if not names:
            rows = await journal.runs(limit=ALL_RUNS)
            names = [row.run_id for row in reversed(rows) if row.status not in RUN_ENDED]
        if not names:
            return []
        tools = await place.known_tools(screen.note)
        settings = place.settings_here
        async with Engine(journal, tools=tools, allow=settings.allow, settings=settings) as engine:
            found = [await engine.in_flight(name) for name in names]
        if isinstance(journal, SqliteJournal):
            return found
        return [on_workers(one) if await journal.is_clusters(one.run_id) else one for one in found]
    finally:
        await journal.close()


def _lines(found: list[InFlight]) -> list[str]:
    if not found:
        return ["no run is unfinished"]
    lines = []
    for one in found:
        plan = f" of plan {printable(one.plan)}" if one.plan else ""
        lines.append(f"run {printable(one.run_id)}{plan}: {one.verdict.value}")
        for finding in one.findings:
            step = f"step {printable(finding.step)}: " if finding.step else ""
            mark = "" if finding.weight is Weight.DIFFERS else f"{finding.weight.value}: "
            lines.append(f"  {mark}{step}{printable(finding.words)}")
            if finding.remedy and finding.weight is not Weight.DIFFERS:
                lines.append(f"    try: {printable(finding.remedy)}")
    cannot = sum(one.verdict is Outlook.CANNOT for one in found)
    lines += ["", f"{counted(len(found), 'unfinished run')}; {cannot or 'none'} cannot go on"]
    return lines

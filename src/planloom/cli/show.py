"""Commands that look at runs on record: list, show, events, replay."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from planloom.cli.exits import Exit
from planloom.cli.options import Invocation, shared
from planloom.cli.output import jsonable
from planloom.cli.project import Workplace
from planloom.core.events import RunStarted
from planloom.core.result import RUN_ENDED, RunStatus
from planloom.errors import RunNotFoundError
from planloom.journal.telling import entry_value
from planloom.observe.looks import printable, run_word, shortened, wait_text
from planloom.observe.table import table_text
from planloom.observe.text import NUMBER_COLUMNS, TABLE_COLUMNS, approval_lines, steps_table, summary_lines
from planloom.observe.timeline import attempts_of, timeline_text
from planloom.runtime.reading import read_run
from planloom.runtime.replay import diverges

if TYPE_CHECKING:
    from planloom.cli.output import Screen
    from planloom.core.events import Event
    from planloom.ports import Recorded, RunRow
    from planloom.runtime.reading import KnowsDrivers, RunOnRecord

UNFINISHED = "unfinished"
"""Said of a run that has not ended and that nobody drives: it was interrupted, or waits for a person."""
OUTPUT_COLUMNS = 2_000
"""Characters of a run's output that `show` prints; `--json` prints all of it."""


@click.command("list")
@shared()
@click.option("--status", type=click.Choice([status.value for status in RunStatus]), help="Only runs that stand so.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most this many.")
def list_runs(call: Invocation, status: str | None, limit: int) -> None:
    """List runs, newest first."""
    screen, place = call.screen(), Workplace(call)

    async def rows() -> list[tuple[RunRow, bool | None]]:
        try:
            journal = place.existing_journal()
        except RunNotFoundError:
            return []
        try:
            return [(row, await _driven(row, journal)) for row in await journal.runs(status=status, limit=limit)]
        finally:
            await journal.close()

    found = asyncio.run(rows())
    table = [
        {
            "run": row.run_id,
            "plan": row.plan,
            "status": UNFINISHED if driven is False else run_word(row.status),
            "started": local_time(row.started_at),
            "updated": local_time(row.updated_at),
        }
        for row, driven in found
    ]
    empty = f"no runs in {place.journal}"
    text = table_text(table, list(table[0]), width=screen.width) if table else empty
    screen.answer([jsonable(row) | {"driven": driven} for row, driven in found], text)


async def _driven(row: RunRow, journal: KnowsDrivers) -> bool | None:
    return None if RunStatus(row.status) in RUN_ENDED else await journal.is_driven(row.run_id)


def local_time(moment: float) -> str:
    """Return seconds since the epoch as local date and time."""
    return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@click.command()
@shared()
@click.argument("run_id", metavar="RUN")
@click.option("--parts", is_flag=True, help="With a line for each item and each step of a sub-plan.")
@click.option("--timeline", is_flag=True, help="With a chart of when each step ran.")
def show(call: Invocation, run_id: str, parts: bool, timeline: bool) -> None:
    """Show how a run stands or ended, from the record alone."""
    screen, place = call.screen(), Workplace(call)
    run = asyncio.run(_read(place, run_id))
    value = run_value(run)
    text = "\n".join(_shown(run, place, screen, parts=parts))
    if timeline:
        text += "\n\n" + timeline_text(run.result, screen.width, ascii_only=screen.ascii_only)
        value["attempts"] = jsonable(attempts_of(run.records))
    screen.answer(value, text)


async def _read(place: Workplace, run_id: str) -> RunOnRecord:
    journal = place.existing_journal(run_id)
    try:
        return await read_run(journal, run_id)
    finally:
        await journal.close()


def run_value(run: RunOnRecord) -> dict[str, Any]:
    """Return a run as JSON."""
    return run.result.to_dict() | {"blocked": run.blocked, "interrupted": run.interrupted}


def _shown(run: RunOnRecord, place: Workplace, screen: Screen, *, parts: bool) -> list[str]:
    result = run.result
    started = f", started {local_time(result.started_at)}" if result.started_at is not None else ""
    lines = [f"run {result.run_id} of plan {printable(result.plan)}{started}", *summary_lines(result), ""]
    rows = steps_table(result, parts=parts, ascii_only=screen.ascii_only)
    lines.append(table_text(rows, TABLE_COLUMNS, width=screen.width, right=NUMBER_COLUMNS))
    held = [node for node in run.state.nodes.values() if node.waiting == "rate"]
    lines += [f"{printable(node.key)} {wait_text('rate', node.due_at)}" for node in held]
    if result.output is not None:
        lines += ["", f"output: {shortened(_text_of(result.output), OUTPUT_COLUMNS)}"]
    lines += approval_lines(result.blocked) if run.blocked else []
    lines += [f"to go on: {blocker['command']}{place.hints()}" for blocker in run.blocked]
    if run.interrupted:
        lines.append(f"nobody drives it; to go on: planloom resume {result.run_id}{place.hints()}")
    return lines


def _text_of(value: Any) -> str:
    return printable(value) if isinstance(value, str) else printable(json.dumps(value, ensure_ascii=False))


@click.command()
@shared()
@click.argument("run_id", metavar="RUN")
@click.option("--follow", is_flag=True, help="Wait for more, until the run has ended.")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Only events after this one.")
def events(call: Invocation, run_id: str, follow: bool, after: int) -> None:
    """Print the record of a run, an event a line.

    With --json each line is a JSON document.
    """
    screen, place = call.screen(), Workplace(call)

    async def print_all() -> None:
        journal = place.existing_journal(run_id)
        try:
            if not follow:
                for recorded in await journal.read(run_id, after=after):
                    screen.write(_event_line(recorded, screen) + "\n")
                return
            await journal.read(run_id, limit=1)
            async for recorded in journal.follow(run_id, after=after):
                screen.write(_event_line(recorded, screen) + "\n")
        finally:
            await journal.close()

    asyncio.run(print_all())


def _event_line(recorded: Recorded, screen: Screen) -> str:
    event = recorded.event
    value = entry_value(recorded)
    if screen.as_json:
        return json.dumps(value, ensure_ascii=screen.ascii_only)
    facts = {name: entry for name, entry in value.items() if name not in ("seq", "cause", "event", "at", "step")}
    if isinstance(event, RunStarted):
        facts["plan"] = event.plan.name
    moment = datetime.fromtimestamp(event.at).astimezone().strftime("%H:%M:%S.%f")[:-3]
    about = f" {value['step']}" if value.get("step") else ""
    told = " ".join(f"{name}={shortened(_text_of(entry), 120)}" for name, entry in facts.items())
    return printable(f"{recorded.seq:>5} {moment} {value['event']}{about} {told}".rstrip())


@click.command()
@shared()
@click.argument("run_id", metavar="RUN")
def replay(call: Invocation, run_id: str) -> None:
    """Decide a run again from its record, and compare.

    Only the facts on record are taken; every decision is made anew. Nothing is run, and nothing is written.
    """
    screen, place = call.screen(), Workplace(call)
    run = asyncio.run(_read(place, run_id))
    difference = diverges(run_id, run.records)
    value: dict[str, Any] = {
        "run_id": run_id,
        "equal": difference is None,
        "events": len(run.records),
        "status": run.result.status.value,
    }
    if difference is None:
        screen.answer(value, f"equal: {len(run.records):,} events, {run_word(run.result.status.value)}")
        return
    recorded, decided = _decision(difference.recorded), _decision(difference.decided)
    value |= {"seq": difference.seq, "recorded": recorded, "decided": decided}
    text = f"different from event {difference.seq} on\n  recorded: {recorded}\n  decided:  {decided}"
    screen.answer(value, text)
    sys.exit(Exit.FAILED)


def _decision(event: Event | None) -> str:
    return "nothing" if event is None else shortened(printable(event), OUTPUT_COLUMNS)

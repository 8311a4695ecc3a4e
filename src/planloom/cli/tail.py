"""The command that follows events: of one run, from its record, or of all runs of a cluster, as they are told.

Rule 1: of one run, nothing is left out and nothing comes twice: it is read from the record, which anything else may
only say is worth another look.
Rule 2: of all runs, it is heard from the broker; what was missed is said, with where it can be read.
Rule 3: it only reads. Ctrl-C ends the following and nothing else.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from planloom.cli.exits import Exit
from planloom.cli.options import Invocation, broker_options, shared
from planloom.cli.project import Workplace
from planloom.observe.looks import printable, shortened
from planloom.transport.event import Event
from planloom.transport.events_out import events_of, source_of

if TYPE_CHECKING:
    from planloom.cli.output import Screen
    from planloom.transport.in_order import Unheard

MISSED = "planloom.news.missed"
"""Of what `--all --json` prints where something was not heard; no cluster tells it."""
_COLUMNS = 100
"""Characters of an event's data that are shown."""


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--all", "everything", is_flag=True, help="Of all runs of the cluster, from now on.")
@click.option("--type", "kinds", multiple=True, metavar="GLOB", help='Only these types, e.g. "*.failed".')
@click.option("--after", type=click.IntRange(0), default=0, metavar="SEQUENCE", help="Of a run: only later events.")
@broker_options
@shared()
def tail(
    call: Invocation,
    run_id: str | None,
    everything: bool,
    kinds: tuple[str, ...],
    after: int,
    servers: tuple[str, ...],
    creds: str | None,
) -> None:
    """Print events as they happen: of one run, or of a cluster.

    Of RUN: from its first event, or the one after SEQUENCE, to its end, none left out and none twice, from the journal.
    With --all: of every run of a cluster, as its agents tell them; what was missed is said.
    """
    if everything == (run_id is not None) or (everything and after):
        raise click.UsageError("name a RUN, or say --all; --after is for a RUN")
    screen, place = call.screen(), Workplace(call)
    told = _Told(screen, kinds)
    following = _all(place, told, servers, creds) if run_id is None else _one(place, told, run_id, after)
    try:
        asyncio.run(following)
    except KeyboardInterrupt:
        screen.note("no longer following")
        raise SystemExit(Exit.INTERRUPTED) from None


class _Told:
    """Prints events that are of the types asked for."""

    def __init__(self, screen: Screen, kinds: tuple[str, ...]) -> None:
        self.screen = screen
        self._kinds = kinds

    def event(self, event: Event, *, always: bool = False) -> None:
        if not always and self._kinds and not any(fnmatchcase(event.type, kind) for kind in self._kinds):
            return
        if self.screen.as_json:
            text = json.dumps(event.to_dict(), ensure_ascii=self.screen.ascii_only)
        else:
            at = datetime.fromtimestamp(event.time).astimezone().strftime("%H:%M:%S.%f")[:-3]
            about = " ".join(part for part in (event.correlation_id, event.subject) if part)
            said = {name: value for name, value in event.data.items() if value not in (None, "", [], {}, 0)}
            data = shortened(printable(json.dumps(said, ensure_ascii=False, default=str)), _COLUMNS) if said else ""
            text = f"{at}  {event.type:<32}  {printable(about)}  {data}".rstrip()
        self.screen.write(text + "\n")

    def missed(self, missed: Unheard) -> None:
        if self.screen.as_json:
            data = {"first": missed.first, "last": missed.last}
            source = source_of(missed.run_id)
            self.event(Event.new(MISSED, data, correlation_id=missed.run_id, source=source), always=True)
            return
        which = f"{missed.first} to {missed.last}" if missed.first < missed.last else str(missed.first)
        run = printable(missed.run_id)
        self.screen.note(f"missed of run {run}: entry {which}; they are on record: planloom tail {run}")


async def _one(place: Workplace, told: _Told, run_id: str, after: int) -> None:
    journal = place.existing_journal(run_id)
    try:
        events = events_of(journal, run_id, source=source_of(run_id), after=after)
        async with aclosing(events):
            async for event in events:
                told.event(event)
    finally:
        await journal.close()


async def _all(place: Workplace, told: _Told, servers: tuple[str, ...], creds: str | None) -> None:
    from planloom.cli.agent import broker_of, cluster_of
    from planloom.transport.in_order import Unheard

    settings = cluster_of(place, servers=servers, creds=creds)
    from planloom.transport.nats.news import NewsFeed  # after it was found that what it needs is there

    def trouble(words: str) -> None:
        told.screen.note(f"broker: {printable(words)}")

    async with NewsFeed(broker_of(settings, "planloom-tail"), on_trouble=trouble) as feed:
        told.screen.note("listening")
        async for heard in feed:
            if isinstance(heard, Unheard):
                told.missed(heard)
            else:
                told.event(heard)

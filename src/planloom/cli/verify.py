"""The command that holds a run's record against its laws, without the engine that wrote it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from planloom.cli.exits import Exit
from planloom.cli.options import Invocation, shared
from planloom.cli.output import jsonable
from planloom.cli.project import Workplace
from planloom.errors import JournalDamagedError
from planloom.observe.looks import printable
from planloom.testing.history.check import judged
from planloom.testing.history.tool_log import read_tool_log
from planloom.testing.history.violation import LAWS, Findings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planloom.journal.chain import RunChain
    from planloom.ports import Recorded
    from planloom.testing.history.violation import LoggedCall


@click.command()
@shared()
@click.argument("run_id", metavar="RUN")
@click.option(
    "--tool-log",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help='What the tools say was called: JSON lines {"run": …, "step": …, "attempt": 1, "key": …, "tool": …}.',
)
def verify(call: Invocation, run_id: str, tool_log: Path | None) -> None:
    """Hold a run's record against the laws that every record keeps.

    Nothing is read but the record, and the tool log where one is given: `key` is the idempotency key that the tool was
    given, lines of other runs are passed over. Exits with 0 if every law holds, with 1 if one is broken.
    """
    screen, place = call.screen(), Workplace(call)
    calls = read_tool_log(tool_log, run_id=run_id) if tool_log is not None else None
    found, chain = _judged(place, run_id, calls)
    value: dict[str, Any] = {
        "run_id": run_id,
        "holds": not found.violations,
        "events": chain.events if chain is not None else 0,
        "links": _links(chain),
        "laws": [{"law": law, **_told(law, found)} for law in LAWS],
        "violations": [jsonable(one) for one in found.violations],
    }
    screen.answer(value, "\n".join([*_lines_of_links(chain), *_lines(run_id, found)]))
    if found.violations:
        sys.exit(Exit.FAILED)


def _judged(place: Workplace, run_id: str, calls: Sequence[LoggedCall] | None) -> tuple[Findings, RunChain | None]:
    """Return what is found, and what the links say; a record that is not what was written breaks a law, too."""

    async def record() -> tuple[list[Recorded], RunChain]:
        journal = place.existing_journal(run_id)
        try:
            return await journal.read(run_id), await journal.chain_of(run_id)
        finally:
            await journal.close()

    try:
        records, chain = asyncio.run(record())
    except JournalDamagedError as error:
        found = Findings()
        seq = error.facts.get("seq")
        found.accuse("record", seq if isinstance(seq, int) else 0, "", error.message)
        return found, None
    return judged(records, tool_calls=calls, run_id=run_id), chain


def _links(chain: RunChain | None) -> dict[str, Any] | None:
    if chain is None:
        return None
    return {"events": chain.chained, "keyed": chain.keyed, "last": chain.head.hex()}


def _lines_of_links(chain: RunChain | None) -> list[str]:
    """Return what the links say. The last one, noted elsewhere, shows later that nothing was cut off."""
    if chain is None:
        return []
    before = chain.events - chain.chained
    old = f", {before:,} older ones have none" if before else ""
    return [f"links  {'fit the key' if chain.keyed else 'fit'}: {chain.chained:,} events{old}; last {chain.head.hex()}"]


def _told(law: str, found: Findings) -> dict[str, Any]:
    broken = sum(one.law == law for one in found.violations)
    return {"says": LAWS[law], "counted": found.counted.get(law, {}), "broken": broken}


def _lines(run_id: str, found: Findings) -> list[str]:
    lines = []
    for law in LAWS:
        told = _told(law, found)
        counted = ", ".join(f"{number:,} {what}" for what, number in told["counted"].items())
        if counted or told["broken"]:
            verdict = f"BROKEN {told['broken']} times" if told["broken"] else "holds"
            lines.append(f"{law:<6} {verdict}{': ' if counted else ''}{counted}")
    lines += [f"  {printable(str(one))}" for one in found.violations]
    end = f"{len(found.violations)} violations" if found.violations else "every law holds"
    return [*lines, f"run {run_id}: {end}"]

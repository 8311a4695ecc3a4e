"""The command that says why a step stands as it does, from the record alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from planloom.cli.options import Invocation, shared
from planloom.cli.project import Workplace
from planloom.runtime.explain import explain as explain_step

if TYPE_CHECKING:
    from planloom.runtime.explain import StepExplanation


@click.command()
@shared()
@click.argument("run_id", metavar="RUN")
@click.argument("step")
def explain(call: Invocation, run_id: str, step: str) -> None:
    """Say why a step stands as it does, back to the submission.

    STEP is its key: `extract`, `check[3]` for an item, `sub/extract` inside a sub-plan. Nothing is read but the record.
    """
    screen, place = call.screen(), Workplace(call)

    async def explained() -> StepExplanation:
        journal = place.existing_journal(run_id)
        try:
            return await explain_step(journal, run_id, step)
        finally:
            await journal.close()

    found = asyncio.run(explained())
    screen.answer(found.to_dict(), str(found))

"""The command that tells a run on record as spans: a line of JSON each, or to a collector."""

from __future__ import annotations

import asyncio
import json
import os

import click

import planloom
from planloom.cli.options import Invocation, shared
from planloom.cli.project import Workplace
from planloom.observe.otlp import otlp_document, send, span_rows
from planloom.ports import Recorded


@click.command("trace")
@shared()
@click.argument("run_id", metavar="RUN")
@click.option(
    "--otlp",
    metavar="ADDRESS",
    help="Send them there, by OTLP over HTTP, e.g. to http://localhost:4318; OTEL_EXPORTER_OTLP_HEADERS goes with it.",
)
@click.option("--content", is_flag=True, help="Tell also what was answered, without what looks secret.")
def trace(call: Invocation, run_id: str, otlp: str | None, content: bool) -> None:
    """Tell a run as spans, as OpenTelemetry has them.

    A span each for the run, its steps, their attempts, and what these called. The same spans as an engine with
    telemetry tells, with the same numbers: what is sent again is not told twice.
    """
    screen, place = call.screen(), Workplace(call)

    async def record() -> list[Recorded]:
        journal = place.existing_journal(run_id)
        try:
            return await journal.read(run_id)
        finally:
            await journal.close()

    rows = list(span_rows(run_id, asyncio.run(record()), content=content))
    if otlp is None:
        for row in rows:
            screen.write(json.dumps(row, ensure_ascii=screen.ascii_only) + "\n")
        return
    send(otlp_document(rows, version=planloom.__version__), otlp, os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))
    screen.write(f"{len(rows)} spans sent to {otlp}\n")

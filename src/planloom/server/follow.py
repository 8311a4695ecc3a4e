"""A run's events as they come, as server-sent events: each under its number, none left out, none twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from planloom.journal.telling import entry_value

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from planloom.server.service import RunService


async def stream(service: RunService, run_id: str, after: int) -> AsyncIterator[str]:
    """Yield the events with numbers above `after`, as text of the protocol; ends with the run."""
    async for recorded in service.journal.follow(run_id, after=after):
        value = entry_value(recorded)
        yield f"id: {recorded.seq}\nevent: {value['event']}\ndata: {json.dumps(value)}\n\n"

"""Follow every run of a cluster from a program of one's own: each event once and in order, whatever the broker loses.

What agents tell over NATS (`pl.evt.>`) only says that a run has news. What they are is read from the journal, from the
last sequence that was handled on: so nothing is left out when the broker restarts with nothing, when this program was
away, or when an agent died before it told anything. Where it is, it keeps in a file.

    python follow.py --nats nats://127.0.0.1:4222 --creds submitter.creds --journal postgresql://reader@host/planloom

Both rights are for looking only: a submitter's credential, and a login in the role `planloom_reader`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import nats

from planloom.errors import RunNotFoundError
from planloom.journal.open import open_database
from planloom.transport.event import Event
from planloom.transport.events_out import Retold

LOOK_S = 10.0
"""Seconds between looks at the journal without being told: what an agent that died had still to say is found so."""
RUNS = 200
"""Newest runs of such a look."""


def handle(event: Event) -> None:
    """Do something with an event: this program's own part."""
    print(json.dumps(event.to_dict()), flush=True)


class Follower:
    """Handles the events of runs, each run from where it was left."""

    def __init__(self, journal: Any, state: Path) -> None:
        self._journal = journal
        self._state = state
        self._done: dict[str, int] = json.loads(state.read_text()) if state.exists() else {}
        self._runs: dict[str, Retold] = {}
        self._ended: set[str] = set()
        self._news: set[str] = set()
        self._wake = asyncio.Event()

    def tell(self, run_id: str) -> None:
        """Say that a run may have news."""
        self._news.add(run_id)
        self._wake.set()

    async def look(self) -> None:
        """Look which runs there are."""
        for row in await self._journal.runs(limit=RUNS):
            self.tell(row.run_id)

    async def work(self) -> None:
        """Handle news for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            self._wake.clear()
            if not self._news:
                await self.look()
            while self._news:
                await self._catch_up(self._news.pop())

    async def _catch_up(self, run_id: str) -> None:
        if run_id in self._ended:
            return
        run = self._runs.setdefault(run_id, Retold(self._journal, run_id, after=self._done.get(run_id, 0)))
        try:
            events = await run.more()
        except RunNotFoundError:  # a submission that was refused has news, and no record
            del self._runs[run_id]
            return
        for event in events:
            handle(event)
        if events:
            self._done[run_id] = run.seq
            self._save()
        if run.ended:
            self._ended.add(run_id)
            del self._runs[run_id]

    def _save(self) -> None:
        """Keep where it is. Killed before this, it handles the same events again: their ids say that they are."""
        written = self._state.with_suffix(".new")
        written.write_text(json.dumps(self._done))
        written.replace(self._state)


async def main(servers: list[str], creds: str | None, address: str, state: Path) -> None:
    journal = open_database(address, make=False)
    follower = Follower(journal, state)

    async def heard(message: Any) -> None:
        with suppress(ValueError, KeyError, TypeError):  # what is no event is not ours to judge
            follower.tell(str(json.loads(message.data)["correlationid"]))

    connection = await nats.connect(
        servers, user_credentials=creds, max_reconnect_attempts=-1, reconnected_cb=follower.look, name="follow.py"
    )
    try:
        await connection.subscribe("pl.evt.>", cb=heard)
        await follower.look()
        await follower.work()
    finally:
        await connection.close()
        await journal.close()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description="Print the events of every run of a cluster.")
    options.add_argument("--nats", action="append", help="the broker; may be given again")
    options.add_argument("--creds", help="a credential of a submitter")
    options.add_argument("--journal", required=True, help="postgresql://…, a login that may read")
    options.add_argument("--state", type=Path, default=Path("follow.json"), help="where it keeps how far it is")
    given = options.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(main(given.nats or ["nats://127.0.0.1:4222"], given.creds, given.journal, given.state))

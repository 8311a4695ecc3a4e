"""A trial: runs are submitted to a cluster of real processes, whose parts are killed meanwhile, and all is judged.

Rule 1: nothing is forgiven: a run has to end as it would have without a kill, but for what somebody had to say of a
step that may run only once.
Rule 2: who submits submits again until the run is on record; who answers answers again until that is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg

from planloom.core.events import CancelRequested
from planloom.errors import PlanloomError
from planloom.journal.postgres.journal import PostgresJournal
from planloom.runtime.cluster.client import ClusterClient
from planloom.runtime.people import answer_fact
from planloom.runtime.reading import RunOnRecord, read_run
from planloom.transport.nats.link import Broker
from tests.cluster.judging import Verdict, effects_of, judged
from tests.cluster.kill_shapes import ONCE, Drawn, drawn
from tests.cluster.members import Deployment
from tests.cluster.strikes import Striker, drawn_strikes

LOOK_S = 0.4
"""Seconds between looks at how runs stand."""
AGAIN_S = 6.0
"""Seconds after which a submission that became no run is made again."""
ACTIVE = 120
"""Runs that are under way at a time, at most."""
COMMANDS = 3
"""Commands of the person who answers that run at a time."""
ZOMBIE_LEASES = 3.0
"""Leases after which nobody is still at an attempt whose outcome is unknown."""
_LEFT = {
    "record": "SELECT run_id, seq, kind, at, left(body, 300) FROM planloom.events ORDER BY run_id, seq",
    "work": "SELECT run_id, step, attempt, token, send_at, sent_at, claimed_by, stop_at, check_at FROM planloom.work",
}


@dataclass
class Told:
    """What a trial came to."""

    seed: int
    runs: int
    kills: int
    took_s: float = 0.0
    killing_s: float = 0.0
    struck: Counter[str] = field(default_factory=Counter)
    resubmitted: int = 0
    gone: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    metrics: dict[str, float] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)


class Trial:
    """One trial.

    Args:
        ways: Only these kinds of kills, in this order; default: all, drawn.
        say: Hears how it goes.
        patience_s: How long what is left is waited for after the last kill.
    """

    def __init__(
        self,
        cluster: Deployment,
        *,
        runs: int,
        kills: int,
        seed: int,
        lease_s: float = 3.0,
        pace_s: float = 1.5,
        patience_s: float = 120.0,
        ways: Sequence[str] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        dice = Random(seed)
        self.told = Told(seed, runs, kills)
        self._cluster = cluster
        self._runs = [drawn(number, dice) for number in range(runs)]
        self._strikes = drawn_strikes(kills, dice, lease_s=lease_s, pace_s=pace_s, ways=ways)
        self._striker = Striker(cluster)
        self._zombie_s = ZOMBIE_LEASES * lease_s
        self._patience_s = patience_s
        self._say = say
        self._statuses: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen_unknown: dict[tuple[str, str], float] = {}
        self._to_answer: set[str] = set()
        self._commands = asyncio.Semaphore(COMMANDS)
        self._submitted = 0
        self._began = time.monotonic()

    async def live(self) -> Told:
        """Submit, kill, answer, wait, and judge."""
        journal = PostgresJournal(self._cluster.dsn)
        client = ClusterClient(Broker((self._cluster.nats.url,), name="trial"))
        try:
            async with client:
                looking = asyncio.gather(self._look_on(journal), self._look_after())
                await self._kill_and_submit(client, journal)
                self.told.killing_s = time.monotonic() - self._began
                await self._striker.all_back()
                await self._all_ended(client, journal)
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
                for task in list(self._tasks):
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
            self.told.took_s = time.monotonic() - self._began
            self.told.struck = self._striker.struck
            self.told.metrics = await asyncio.to_thread(self._cluster.metrics)
            await self._leave_behind()
            self.told.verdict = await judged(journal, self._runs, self._cluster.folder)
            return self.told
        finally:
            await journal.close()

    async def _leave_behind(self) -> None:
        """Write the whole record, and the work that is still asked for, beside the logs, for whoever asks why."""
        async with await psycopg.AsyncConnection.connect(self._cluster.dsn) as connection:
            for name, told in _LEFT.items():
                rows = await (await connection.execute(told)).fetchall()
                (self._cluster.folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def some(self, number: int) -> list[str]:
        """Return names of runs, spread over all of them."""
        return [run.run_id for run in self._runs[:: max(1, len(self._runs) // number)]][:number]

    # --- submitting and killing ---

    async def _kill_and_submit(self, client: ClusterClient, journal: PostgresJournal) -> None:
        for number, strike in enumerate(self._strikes, start=1):
            await self._submit(client, journal, len(self._runs) * number // len(self._strikes))
            await asyncio.sleep(strike.after_s)
            await self._striker.strike(strike)
            if number % 5 == 0 or number == len(self._strikes):
                self._progress(number)

    async def _submit(self, client: ClusterClient, journal: PostgresJournal, up_to: int) -> None:
        """Submit the runs up to one of them, as far as not too many are under way."""
        while self._submitted < up_to:
            room = ACTIVE - (self._submitted - self._ended)
            if room <= 0:
                return
            run = self._runs[self._submitted]
            self._submitted += 1
            self._start(self._see_through(run, client, journal))

    async def _see_through(self, run: Drawn, client: ClusterClient, journal: PostgresJournal) -> None:
        """Submit a run until it is on record; stop it, if it is one that somebody stops."""
        tries = 0
        while run.run_id not in self._statuses:
            tries += 1
            try:
                await client.submit(run.plan, run_id=run.run_id)
            except PlanloomError:
                await asyncio.sleep(0.5)
                continue
            await self._within(AGAIN_S, lambda: run.run_id in self._statuses)
        self.told.resubmitted += tries > 1
        while run.is_cancelled and self._statuses[run.run_id] in ("running", "waiting"):
            await asyncio.sleep(0.7)
            try:
                if int(run.run_id[1:]) % 20 < 10:
                    await client.cancel(run.run_id, by="trial", reason="enough")
                else:
                    await journal.post(run.run_id, CancelRequested("trial", time.time(), "enough"))
            except PlanloomError:
                continue
            await self._within(AGAIN_S, lambda: self._statuses[run.run_id] not in ("running", "waiting"))

    async def _within(self, seconds: float, reached: Callable[[], bool]) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while not reached() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(LOOK_S / 2)

    @property
    def _ended(self) -> int:
        return sum(status not in ("running", "waiting") for status in self._statuses.values())

    async def _all_ended(self, client: ClusterClient, journal: PostgresJournal) -> None:
        """Wait until every run has ended, as long as there is hope."""
        end = time.monotonic() + self._patience_s
        said_at = 0.0
        while self._ended < len(self._runs) and time.monotonic() < end:
            await self._submit(client, journal, len(self._runs))
            if time.monotonic() > said_at + 10:
                said_at = time.monotonic()
                self._progress(len(self._strikes))
            await asyncio.sleep(LOOK_S)
        self._progress(len(self._strikes))

    def _progress(self, strikes: int) -> None:
        self._say(
            f"{time.monotonic() - self._began:6.1f} s  {strikes} kills, {self._submitted} submitted, "
            f"{len(self._statuses)} on record, {self._ended} ended, {sum(self.told.answered.values())} answered"
        )

    async def _look_after(self) -> None:
        """Start members again that ended by themselves, as whatever runs services does."""
        while True:
            for member in self._cluster.members:
                if member.has_gone:
                    self.told.gone += 1
                    self._say(f"{member.name} ended by itself: {member.said.read_text(errors='replace')[-300:]}")
                    member.start()
            await asyncio.sleep(LOOK_S)

    # --- people ---

    async def _look_on(self, journal: PostgresJournal) -> None:
        """Look how runs stand, and answer what they ask."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._cluster.dsn, autocommit=True, connect_timeout=3
                ) as connection:
                    while True:
                        await self._look(connection, journal)
                        await asyncio.sleep(LOOK_S)
            except psycopg.OperationalError:  # it is down
                await asyncio.sleep(LOOK_S)

    async def _look(self, connection: psycopg.AsyncConnection[Any], journal: PostgresJournal) -> None:
        rows = await (await connection.execute("SELECT run_id, status FROM planloom.runs")).fetchall()
        self._statuses = dict(rows)
        asking = await (
            await connection.execute(
                "SELECT DISTINCT e.run_id FROM planloom.events e JOIN planloom.runs r USING (run_id)"
                " WHERE e.kind IN ('approval_requested', 'outcome_unknown') AND r.status IN ('running', 'waiting')"
            )
        ).fetchall()
        for (run_id,) in asking:
            if run_id not in self._to_answer:
                self._to_answer.add(run_id)
                self._start(self._answer(run_id, journal))

    async def _answer(self, run_id: str, journal: PostgresJournal) -> None:
        """Answer what a run asks now."""
        try:
            run = await read_run(journal, run_id)
            for key, node in list(run.state.blocked.items()):
                if node.waiting == "approval":
                    fact = answer_fact(run.state, key, by="trial", approved=True, output=None, at=time.time())
                    await journal.post(run_id, fact)
                    self.told.answered["approved"] += 1
                elif node.waiting == "unknown":
                    await self._resolve(run, run_id, key)
            await asyncio.sleep(1.0)
        except PlanloomError:
            await asyncio.sleep(1.0)
        finally:
            self._to_answer.discard(run_id)

    async def _resolve(self, run: RunOnRecord, run_id: str, key: str) -> None:
        """Say what came of a step that may run only once: what the effects file says, once it can say no more."""
        now = asyncio.get_running_loop().time()
        since = self._seen_unknown.setdefault((run_id, key), now)
        done = [line for line in effects_of(self._cluster.folder) if (line["run"], line["step"]) == (run_id, key)]
        if done:
            how = ["--output", str(done[0]["n"] + 1)]
        elif now - since > self._zombie_s and not self._striker.may_be_at_it(since):
            how = ["--retry"]
        else:
            return
        assert all(line["tool"] == ONCE for line in done)
        async with self._commands:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "planloom", "resolve", run_id, key, *how, "--by", "trial", "--json"),
                *("--journal", self._cluster.dsn),
                cwd=self._cluster.folder,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            _, said = await process.communicate()
        if process.returncode == 0:
            self.told.answered[f"resolved {how[0]}"] += 1
            self._seen_unknown.pop((run_id, key), None)
        else:
            self._say(f"planloom resolve {run_id} {key}: {process.returncode} {said.decode()[-300:]}")

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def table(told: Told) -> str:
    """Return what a trial came to, for people."""
    verdict = told.verdict
    rows: list[tuple[str, Any]] = [
        ("seed", told.seed),
        ("seconds, and of them with kills", f"{told.took_s:.0f}, {told.killing_s:.0f}"),
        *((f"  {way}", number) for way, number in sorted(told.struck.items())),
        ("kills", sum(told.struck.values())),
        ("members that ended by themselves", told.gone),
        ("runs accepted", verdict.runs - len(verdict.lost)),
        ("runs submitted more than once", told.resubmitted),
        *((f"  {status}", number) for status, number in sorted(verdict.statuses.items())),
        ("runs lost", len(verdict.lost)),
        ("runs without an end", len(verdict.unended)),
        ("events on record", verdict.events),
        ("attempts with an outcome", verdict.attempts),
        ("  of them lost with their worker", verdict.lost_attempts),
        ("executions of tools", verdict.executions),
        ("  of `once` tools", verdict.once_executions),
        ("`once` effects doubled", len(verdict.doubled)),
        ("outcomes unknown, resolved by hand", f"{verdict.unknown}, {verdict.resolved}"),
        *((f"  {how}", number) for how, number in sorted(told.answered.items())),
        ("runs that failed: three workers died with a step", len(verdict.poisoned)),
        ("outcomes refused on record", verdict.refused),
        ("laws broken, or otherwise wrong", len(verdict.wrong)),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    lines += [f"LOST {one}" for one in verdict.lost] + [f"NO END {one}" for one in verdict.unended]
    lines += [f"DOUBLED {one}" for one in verdict.doubled] + [f"WRONG {one}" for one in verdict.wrong]
    return "\n".join(lines)


def as_json(told: Told) -> str:
    """Return what a trial came to, for programs."""
    verdict = vars(told.verdict) | {"is_good": told.verdict.is_good}
    return json.dumps(vars(told) | {"verdict": verdict}, indent=2)

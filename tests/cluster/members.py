"""A whole cluster of real processes in one folder: PostgreSQL, NATS, agents and workers, each of which may be killed.

Rule 1: whoever was killed is started again in the same place; nothing is told to it that its files do not say.
Rule 2: everything here ends with the process that made it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from urllib.request import urlopen

from planloom.guardian import Guardian
from tests.cluster.servers import Nats, Postgres, until

_GUARDIAN = Guardian()
READY_S = 60.0


class Member:
    """An agent or a worker: a command of planloom's that is to run, in a session of its own.

    Attributes:
        stopped: Whether it is stopped (SIGSTOP) now.
        starts: How often it was started.
    """

    def __init__(self, name: str, folder: Path, *command: str, ready: str) -> None:
        self.name = name
        self.said = folder / f"{name}.log"
        self.stopped = False
        self.starts = 0
        self._folder = folder
        self._command = command
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None
        self._begun_at = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_up(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def has_gone(self) -> bool:
        """Return whether it ended though nobody killed it."""
        return self._process is not None and self._process.poll() is not None

    @property
    def is_ready(self) -> bool:
        """Return whether it has said that it works, since it was started."""
        with self.said.open("rb") as said:
            said.seek(self._begun_at)
            return self._ready.encode() in said.read()

    def start(self) -> None:
        self.starts += 1
        self._begun_at = self.said.stat().st_size if self.said.exists() else 0
        with self.said.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "planloom", *self._command],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        _GUARDIAN.watch(self._process.pid)

    def kill(self) -> None:
        """End it and what it started at once."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        _GUARDIAN.forget(self._process.pid)
        self._process.wait()
        self._process, self.stopped = None, False

    def stop(self) -> None:
        """Have it stand still, as a machine does that is out of memory."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGCONT)
        self.stopped = False


class Deployment:
    """A cluster.

    Args:
        link: Stands between the members and the broker: given its address, it yields the one that they are told.

    Attributes:
        dsn: Where its record is.
        url: Where its members find the broker.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tools: str,
        agents: int = 2,
        workers: int = 3,
        capacity: int = 8,
        settings: str = "lease_s = 3\ncheck_s = 3\n",
        worker_options: tuple[str, ...] = (),
        postgres: Postgres | None = None,
        link: Callable[[str], AbstractContextManager[str]] = nullcontext,
    ) -> None:
        self.folder = folder
        self._own = postgres is None
        self.postgres = postgres or Postgres()
        self.nats = Nats(folder / "nats")
        self._link = link
        self._tools = tools
        self._settings = settings
        self._outfit = ("--capacity", str(capacity), *worker_options)
        self._many = agents, workers
        self.agents: list[Member] = []
        self.workers: list[Member] = []
        self.dsn = self.url = ""

    def agent(self, name: str) -> Member:
        """Return another agent, which is not started yet."""
        self.agents.append(Member(name, self.folder, "agent", "--metrics-port", "0", ready="is ready"))
        return self.agents[-1]

    def worker(self, name: str, *options: str) -> Member:
        """Return another worker, which is not started yet."""
        command = ("worker", "--nats", self.url, "--name", name, "--wait", "60", *self._outfit, *options)
        self.workers.append(Member(name, self.folder, *command, ready=f"worker {name} of"))
        return self.workers[-1]

    @property
    def members(self) -> list[Member]:
        return [*self.agents, *self.workers]

    @contextmanager
    def running(self) -> Iterator[Deployment]:
        """Have it run, all of it ready."""
        try:
            if self._own:
                self.postgres.start()
            self.nats.start()
            self.dsn = self.postgres.database()
            with self._link(self.nats.url) as self.url:
                self.write_settings()
                agents, workers = self._many
                for number in range(agents):
                    self.agent(f"agent{number}").start()
                for number in range(workers):
                    self.worker(f"worker{number}").start()
                self.ready()
                yield self
        finally:
            for member in self.members:
                member.kill()
            self.nats.kill()
            if self._own:
                self.postgres.remove()

    def ready(self) -> None:
        """Wait until every member that was started works."""
        for member in self.members:
            until(partial(_comes_to_work, member), within_s=READY_S, what=member.name)

    def write_settings(self) -> None:
        (self.folder / "tools.py").write_text(self._tools)
        (self.folder / "planloom.toml").write_text(
            f'tools = ["tools.py"]\njournal = "{self.dsn}"\n[models]\ndefault = "scripted://echo"\n'
            f'[cluster]\nnats = "{self.url}"\n{self._settings}'
        )

    def metrics(self) -> dict[str, float]:
        """Return what the agents that run now have counted, all together."""
        total: dict[str, float] = {}
        for agent in self.agents:
            said = agent.said.read_bytes()[agent._begun_at :].decode(errors="replace")
            address = next((word for word in said.split() if word.endswith("/metrics")), None)
            if address is None:
                continue
            for line in urlopen(address, timeout=10).read().decode().splitlines():
                if not line.startswith("#"):
                    name, _, number = line.rpartition(" ")
                    total[name] = total.get(name, 0) + float(number)
        return total


def _comes_to_work(member: Member) -> bool:
    if not member.is_up:
        raise RuntimeError(f"{member.name} ended: {member.said.read_text(errors='replace')[-2000:]}")
    return member.is_ready

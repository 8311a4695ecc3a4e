"""Real servers for the tests: PostgreSQL on a unix socket, NATS on a free port of the loopback.

Rule 1: a server's folder is its own; no test uses a server that somebody else started.
Rule 2: a server ends with the process that started it, however that ends.
Rule 3: a server that was killed and started again has the address it had.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from planloom.guardian import Guardian

START_S = 20.0
_GUARDIAN = Guardian()


def program_of(name: str, variable: str, *folders: Path) -> str:
    """Return the path of a program; skip the test where there is none."""
    named = os.environ.get(variable, "")
    found = named or shutil.which(name) or next((str(one / name) for one in folders if (one / name).exists()), "")
    if not found:
        pytest.skip(f"not installed: {name}")
    return found


def nats_program() -> str:
    """Return PLANLOOM_NATS_SERVER, else what is on the PATH, else what pip installed beside this Python."""
    return program_of("nats-server", "PLANLOOM_NATS_SERVER", Path(sys.executable).parent, Path("/usr/sbin"))


def until(reached: Callable[[], Any], *, within_s: float = START_S, what: str = "it") -> Any:
    """Return what `reached` returns, once it is something."""
    end = time.monotonic() + within_s
    while True:
        found = reached()
        if found:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come about within {within_s:g} s")
        time.sleep(0.01)


async def comes(reached: Callable[[], Any], *, within_s: float = START_S, what: str = "it") -> Any:
    """Return what `reached` returns, once it is something; the event loop goes on meanwhile."""
    end = asyncio.get_running_loop().time() + within_s
    while True:
        found = reached()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError(f"{what} did not come about within {within_s:g} s")
        await asyncio.sleep(0.01)


class _Program:
    """A program that runs in a session of its own and writes what it says into a file."""

    def __init__(self, said: Path) -> None:
        self.said = said
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, command: list[str], **options: Any) -> None:
        with self.said.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **options
            )
        _GUARDIAN.watch(self.process.pid)

    def check_alive(self) -> None:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"{self.process.args!r} ended: {self.said.read_text(errors='replace')[-2000:]}")

    def end(self, number: int) -> None:
        """Send its process a signal and wait for its end; nothing where it has none."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        _GUARDIAN.forget(self.process.pid)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class Nats:
    """A nats-server with JetStream.

    Args:
        folder: Where its store and its config lie.
        config: Text of its config file, beside address, port and store.

    Attributes:
        url: Where it listens, e.g. "nats://127.0.0.1:40123"; "" before its first start.
    """

    def __init__(self, folder: Path, config: str = "max_payload: 8MB\n", *, program: str = "") -> None:
        self._folder = folder
        self._program = program or nats_program()
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "nats.conf"
        self.config.write_text(config)
        self.store = folder / "store"
        self._run = _Program(folder / "nats.log")
        self.url = ""

    @property
    def pid(self) -> int:
        return self._run.pid

    @property
    def log(self) -> str:
        return self._run.said.read_text(errors="replace")

    def start(self) -> Nats:
        ports = self._folder / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        port = urlsplit(self.url).port if self.url else -1
        command = [self._program, "-c", str(self.config), "-a", "127.0.0.1", "-p", str(port), "-js"]
        self._run.start([*command, "-sd", str(self.store), "--ports_file_dir", str(ports)])

        def listens() -> str:
            self._run.check_alive()
            for file in ports.glob("*.ports"):
                with suppress(ValueError, OSError):
                    return str(json.loads(file.read_text())["nats"][0])
            return ""

        self.url = until(listens, what="nats-server")
        return self

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        self._run.end(signal.SIGKILL)

    def stop(self) -> None:
        self._run.end(signal.SIGTERM)

    def wipe(self) -> None:
        """Delete its whole store; only while it is down."""
        assert self._run.process is None
        shutil.rmtree(self.store, ignore_errors=True)

    def restart(self, *, empty: bool = False) -> None:
        """Kill it and start it again at the same address, with its store or without."""
        self.kill()
        if empty:
            self.wipe()
        self.start()

    def reload(self) -> None:
        """Have it read its config file again."""
        os.kill(self.pid, signal.SIGHUP)


class Postgres:
    """A PostgreSQL that listens on a unix socket only; its superuser is `postgres`, and whoever asks is trusted.

    Args:
        durable: Whether it waits for the disk (fsync).
    """

    def __init__(self, *, durable: bool = False) -> None:
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        self._bin = Path(program_of("initdb", "PLANLOOM_INITDB", *versions)).resolve().parent
        self._durable = durable
        self.folder = Path(tempfile.mkdtemp(prefix="planloom-pg-", dir="/tmp"))  # a socket's path may have 107 bytes
        self._run = _Program(self.folder / "postgres.log")
        self._as: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to be root's
            user = pwd.getpwnam("postgres" if _is_user("postgres") else "nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
        self._store = self.folder / "store"
        command = ["initdb", "-D", str(self._store), "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"]
        self._call(*command, "--locale=C")

    def _call(self, name: str, *args: str) -> str:
        done = subprocess.run(
            [*self._as, str(self._bin / name), *args], cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr}")
        return done.stdout

    @property
    def pid(self) -> int:
        return self._run.pid

    @property
    def log(self) -> str:
        return self._run.said.read_text(errors="replace")

    def start(self) -> Postgres:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "shared_buffers": "16MB",
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [*self._as, str(self._bin / "postgres"), "-D", str(self._store), *options]

        def listens() -> bool:
            if self._run.process is None or self._run.process.poll() is not None:
                self._run.process = None  # one that was killed leaves children, which must be gone first
                self._run.start(command, cwd=self.folder)
            asked = [str(self._bin / "pg_isready"), "-q", "-h", str(self.folder), "-U", "postgres"]
            return subprocess.run(asked, check=False).returncode == 0

        try:
            until(listens, what="PostgreSQL")
        except TimeoutError as error:
            raise RuntimeError(f"{error}: {self.log[-2000:]}") from error
        return self

    def kill(self) -> None:
        """End it and everything it started at once, as a power cut does, but for what the kernel has still to write."""
        if self._run.process is None:
            return
        with suppress(OSError):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
            os.kill(self.pid, signal.SIGSTOP)  # it must not restart what is killed before it
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
        self._run.end(signal.SIGKILL)

    def stop(self) -> None:
        self._run.end(signal.SIGINT)  # "fast": connections are cut, everything is written

    def restart(self) -> None:
        """Kill it and start it again at the same address."""
        self.kill()
        self.start()

    def program(self, name: str) -> Path:
        """Return one of its programs, e.g. "pg_dump"."""
        return self._bin / name

    def remove(self) -> None:
        """Kill it and delete everything it had."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, text: str, *, database: str = "postgres") -> str:
        """Have it do something as its superuser; return what psql prints, unaligned and without headings."""
        told = [
            str(self._bin / "psql"),
            "-h",
            str(self.folder),
            "-U",
            "postgres",
            "-d",
            database,
            "-v",
            "ON_ERROR_STOP=1",
        ]
        done = subprocess.run([*told, "-qAtX", "-c", text], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"psql: {done.stderr}")
        return done.stdout.strip()

    def database(self) -> str:
        """Make a database; return where it is, as `postgresql://…`."""
        name = f"test_{secrets.token_hex(4)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.dsn(name)

    def dsn(self, name: str, *, user: str = "postgres") -> str:
        return f"postgresql://{user}@/{name}?host={self.folder}"


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True

"""No program of the corpus gets out, in either sandbox: what it came to is typed, and the host is as it was."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planloom.core.code import ErrorType, Program, SandboxLimits, SandboxResult
from planloom.sandbox.sandbox import backend_of
from planloom.sandbox.watch import descendants, memory_bytes
from sandbox.conftest import RUNTIMES, needs
from sandbox.corpus import PROGRAMS

SECRET = "the-canary-sings-7f3a"
LIMITS = SandboxLimits(memory_mb=64, wall_s=1.0, cpu_percent=None, disk_mb=4, tool_calls=200)
AT_ONCE = 4


class Host:
    """What a program could reach: a file, a folder, sockets, an environment, a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / "canary.txt"
        self.canary.write_text(SECRET)
        self.abstract = f"planloom-canary-{os.getpid()}"
        self.visits: list[str] = []
        self.signals: list[int] = []
        self.calls: list[Any] = []
        self._listening = [
            self._listen(socket.AF_INET, ("127.0.0.1", 0)),
            self._listen(socket.AF_UNIX, str(folder / "s")),
        ]
        self._listening.append(self._listen(socket.AF_UNIX, f"\0{self.abstract}"))
        self.port = self._listening[0].getsockname()[1]

    def _listen(self, family: int, address: Any) -> socket.socket:
        listening = socket.socket(family)
        listening.bind(address)
        listening.listen()
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        return listening

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                listening.accept()[0].close()
            except OSError:
                return
            self.visits.append(str(listening))

    def close(self) -> None:
        for listening in self._listening:
            listening.shutdown(socket.SHUT_RDWR)
            listening.close()

    def program(self, source: str) -> Program:
        told = {
            "@CANARY@": str(self.canary),
            "@FOLDER@": str(self.folder),
            "@PORT@": str(self.port),
            "@SOCKET@": str(self.folder / "s"),
            "@ABSTRACT@": self.abstract,
            "@PARENT@": str(os.getpid()),
        }
        for mark, value in told.items():
            source = source.replace(mark, value)

        async def echo(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self.calls.append(args)
            return args[0]

        return Program(source, tools={"echo": echo}, limits=LIMITS, forbids=lambda name: name == "secret")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(prefix="host-"))
    folder.chmod(0o755)  # anyone may read it: that a program is somebody else must not be what keeps it out
    there = Host(folder)
    os.environ["CANARY_SECRET"] = SECRET
    noted = {}
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        noted[number] = signal.signal(number, lambda got, _frame: there.signals.append(got))
    yield there
    for number, handler in noted.items():
        signal.signal(number, handler)
    del os.environ["CANARY_SECRET"]
    there.close()
    shutil.rmtree(folder)


Ran = dict[str, SandboxResult]


def run_all(runtime: str, host: Host) -> tuple[Ran, int]:
    """Run the corpus, a few at a time; return what each came to, and how much more memory was used here."""

    async def main() -> tuple[Ran, int]:
        backend = backend_of(runtime)
        places = asyncio.Semaphore(AT_ONCE)
        before, most = memory_bytes(os.getpid()), 0

        async def one(source: str) -> SandboxResult:
            nonlocal most
            async with places:
                result = await backend.run(host.program(source))
            most = max(most, memory_bytes(os.getpid()) - before)
            return result

        found = await asyncio.gather(*map(one, PROGRAMS.values()))
        return dict(zip(PROGRAMS, found, strict=True)), most

    return asyncio.run(main())


@pytest.fixture(scope="module")
def ran(host: Host) -> dict[str, tuple[Ran, int]]:
    return {}


def results(runtime: str, host: Host, ran: dict[str, tuple[Ran, int]]) -> tuple[Ran, int]:
    needs(runtime)
    if runtime not in ran:
        ran[runtime] = run_all(runtime, host)
    return ran[runtime]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a25_it_is_contained(runtime: str, name: str, host: Host, ran: dict[str, tuple[Ran, int]]) -> None:
    result = results(runtime, host, ran)[0][name]

    told = str(result.to_dict())
    assert SECRET not in told
    told.encode()
    assert "ESCAPED" not in told
    assert result.error_type is None or isinstance(result.error_type, ErrorType)
    assert result.error_type is None or result.error
    assert result.execution_time < 3 * LIMITS.wall_s
    assert len(result.output) + len(result.stderr) <= LIMITS.output_bytes


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_of_the_host_is_touched(runtime: str, host: Host, ran: dict[str, tuple[Ran, int]]) -> None:
    _, more_bytes = results(runtime, host, ran)

    assert host.canary.read_text() == SECRET
    assert sorted(file.name for file in host.folder.iterdir()) == ["canary.txt", "s"]
    assert [name for name in ("/tmp/escaped", "/dev/shm/escaped", "/escaped") if Path(name).exists()] == []
    assert host.visits == []
    assert host.signals == []
    assert more_bytes < 100 * 10**6


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_process_and_no_descriptor_is_left(runtime: str, host: Host, ran: dict[str, tuple[Ran, int]]) -> None:
    results(runtime, host, ran)
    before = sorted(os.listdir("/proc/self/fd"))

    async def main() -> None:
        await backend_of(runtime).run(host.program("1"))

    asyncio.run(main())

    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert [process for process in descendants(os.getpid()) if process > 0] == []


EXPECTED = {
    "memory by children": ErrorType.MEMORY,
    "memory by shared mapping": ErrorType.MEMORY,
    "file bomb": ErrorType.DISK,
    "socket to the host": ErrorType.DENIED,
    "endless loop": ErrorType.TIMEOUT,
    "output bomb": ErrorType.OUTPUT,
    "a tool called without end": ErrorType.DENIED,
    "its own messages, malformed": ErrorType.PROTOCOL,
    "its own messages, deep": ErrorType.PROTOCOL,
    "its own messages, a forged tool": ErrorType.DENIED,
    "its own messages, without end": ErrorType.RESULT,
    "its own messages, ready without end": ErrorType.PROTOCOL,
    "its own messages, a call numbered infinity": ErrorType.PROTOCOL,
    "its own messages, an end that is not its to say": ErrorType.PROTOCOL,
    "its own messages, half a character": ErrorType.RUNTIME,
    "its own messages, a tool called half a character": ErrorType.DENIED,
    "its own messages, a hundred thousand values": ErrorType.RESULT,
    "larger buffers of sockets": ErrorType.DENIED,
    "attributes of files without end": ErrorType.DISK,
    "locks without end": ErrorType.DISK,
    "locks of open files": ErrorType.DENIED,
    "children that nobody counts": ErrorType.DENIED,
    "ctypes pokes memory": ErrorType.CRASHED,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_what_stopped_it_is_what_should(name: str, host: Host, ran: dict[str, tuple[Ran, int]]) -> None:
    why = results("cpython", host, ran)[0][name].error_type

    # On a busy machine the time of what goes on for ever may be up before anything else stops it.
    assert why is EXPECTED[name] or (why is ErrorType.TIMEOUT and name.endswith("without end"))


@pytest.mark.slow
def test_no_more_processes_than_allowed(host: Host) -> None:
    needs("cpython")
    source = """
import os, time
made = 0
for _ in range(100):
    try:
        if os.fork() == 0:
            time.sleep(9)
    except OSError:
        break
    made += 1
return made
"""

    made = asyncio.run(backend_of("cpython").run(host.program(source))).result

    assert 0 < made < LIMITS.processes

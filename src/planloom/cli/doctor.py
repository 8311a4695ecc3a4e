"""The command that looks at an installation: what works, what is missing, and what mends it.

Rule 1: it looks and mends nothing; what it writes to measure the disk it takes away again.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import click

from planloom.cli.doctor_cluster import cluster_findings
from planloom.cli.exits import Exit
from planloom.cli.finding import Finding, Grade
from planloom.cli.options import Invocation, shared
from planloom.cli.output import jsonable
from planloom.cli.project import Workplace
from planloom.errors import ConfigError, PlanloomError, RunNotFoundError
from planloom.observe.looks import counted, duration_text, printable
from planloom.sandbox.sandbox import BACKENDS, Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planloom.tools.mcp import McpServer

OLDEST_PYTHON = (3, 11)
OLDEST_SQLITE = (3, 35, 0)
"""The first with RETURNING."""
NEEDED = ("click", "jsonschema", "pydantic", "PyYAML")
EXTRAS = {
    "rich": ("rich", "progress as a table on a terminal"),
    "uvloop": ("fast", "a faster event loop"),
    "mcp": ("mcp", "tools of MCP servers, and plans as such tools"),
    "psycopg": ("postgres", "a journal in PostgreSQL"),
    "nats-py": ("cluster", "runs on many machines"),
    "torch": ("transformers", "models in this process"),
    "transformers": ("transformers", "models in this process"),
}
"""Package → extra that brings it, and what it is for."""
SLOW_FSYNC_S = 0.05
FSYNCS = 7


@click.command()
@shared(tools=True)
def doctor(call: Invocation) -> None:
    """Look at this installation and say what is missing.

    With the command that installs it, and whether the journal and the tools named here work.
    """
    screen = call.screen()
    with screen.only_answers_on_stdout():
        findings = [*_installation(), *_workplace(call)]
    signs = {Grade.OK: "+" if screen.ascii_only else "✓", Grade.HINT: "-", Grade.WRONG: "x"}
    signs[Grade.WRONG] = "x" if screen.ascii_only else "✗"
    lines = []
    for found in findings:
        lines.append(f"{signs[found.verdict]} {found.about}: {printable(found.words)}")
        lines += [f"    try: {printable(found.remedy)}"] if found.remedy else []
    wrong = [found for found in findings if found.verdict is Grade.WRONG]
    lines.append("nothing is wrong" if not wrong else f"{counted(len(wrong), 'thing')} wrong")
    screen.answer({"ok": not wrong, "findings": [jsonable(found) for found in findings]}, "\n".join(lines))
    if wrong:
        sys.exit(Exit.JOURNAL if all(found.about.startswith("journal") for found in wrong) else Exit.CONFIG)


def _installation() -> Iterator[Finding]:
    python = platform.python_version()
    enough = sys.version_info >= OLDEST_PYTHON
    where = f"{platform.python_implementation()} {python} on {platform.system()} {platform.machine()}"
    yield Finding(
        "python", Grade.OK if enough else Grade.WRONG, where, "" if enough else "install Python 3.11 or newer"
    )
    yield Finding("planloom", Grade.OK, _version("planloom") or "not installed as a package")
    for name in NEEDED:
        found = _version(name)
        yield Finding(
            name,
            Grade.OK if found else Grade.WRONG,
            found or "missing",
            "" if found else "pip install --upgrade planloom",
        )
    for name, (extra, use) in EXTRAS.items():
        found = _version(name)
        words = found or f"not installed ({use})"
        remedy = "" if found else f"pip install 'planloom[{extra}]'"
        yield Finding(name, Grade.OK if found else Grade.HINT, words, remedy)
    enough = sqlite3.sqlite_version_info >= OLDEST_SQLITE
    remedy = "" if enough else "use a Python that is built with a newer SQLite"
    yield Finding("sqlite", Grade.OK if enough else Grade.WRONG, sqlite3.sqlite_version, remedy)
    yield from (_sandbox(runtime) for runtime in BACKENDS)


def _sandbox(runtime: str) -> Finding:
    """Say whether code steps of this runtime can run here, by running one."""
    about = f"sandbox {runtime}"
    try:
        result = Sandbox(runtime=runtime).run("6 * 7")
    except ConfigError as error:
        return Finding(about, Grade.HINT, error.message, error.remedy)
    if result.result != 42:
        return Finding(about, Grade.WRONG, f"it does not work: {result.error}", "say so where planloom comes from")
    words = f"works, started in {duration_text(result.execution_time)}"
    for limit, why in result.unenforced.items():
        words += f"; {limit} is not enforced: {why}"
    return Finding(about, Grade.OK, words)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _workplace(call: Invocation) -> Iterator[Finding]:
    try:
        place = Workplace(call)
    except ConfigError as error:
        yield Finding("settings", Grade.WRONG, error.message, error.remedy)
        return
    words = str(place.file) if place.file is not None else "no planloom.toml here or above"
    yield Finding("settings", Grade.OK, words)
    yield from _journal(place)
    yield from cluster_findings(place)
    yield _tools(place)
    for server in place.mcp_servers():
        yield _mcp(server)


def _tools(place: Workplace) -> Finding:
    if not place.tool_sources:
        remedy = 'write tools = ["tools.py"] into planloom.toml, or give --tools'
        return Finding("tools", Grade.HINT, "none are named", remedy)
    try:
        registry = place.tools()
    except PlanloomError as error:
        return Finding("tools", Grade.WRONG, error.message, error.remedy)
    names = registry.names()
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return Finding("tools", Grade.OK, f"{counted(len(names), 'tool')} from {', '.join(place.tool_sources)}: {shown}")


def _mcp(server: McpServer) -> Finding:
    about = f"mcp {server.name}"

    async def load() -> int:
        async with server:
            return len(await server.load())

    try:
        return Finding(about, Grade.OK, f"{counted(asyncio.run(load()), 'tool')} from {server.terms.place}")
    except ConfigError as error:
        return Finding(about, Grade.WRONG, error.message, error.remedy)


def _journal(place: Workplace) -> Iterator[Finding]:
    if isinstance(place.journal, str):
        yield _opened(place, place.journal)
        return
    path = place.journal.absolute()
    folder = next(parent for parent in path.parents if parent.exists())
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        remedy = "give yourself the right to write there, or name another file with --journal"
        yield Finding("journal", Grade.WRONG, f"{path} cannot be written", remedy)
        return
    if path.exists():
        yield _opened(place, path)
    else:
        yield Finding("journal", Grade.OK, f"{path} will be made by the first run")
    try:
        seconds = fsync_s(folder)
    except OSError as error:
        yield Finding(
            "journal disk",
            Grade.WRONG,
            f"cannot write to {folder}: {error.strerror}",
            "free some space, or name another file with --journal",
        )
        return
    yield disk_finding(folder, seconds)


def disk_finding(folder: Path, seconds: float) -> Finding:
    """Return what to say of a folder where a page takes this long to be durable."""
    words = f"fsync takes {duration_text(seconds)} in {folder}"
    slow = seconds > SLOW_FSYNC_S
    remedy = "every durable step waits for that: keep the journal on a local disk, with --journal" if slow else ""
    return Finding("journal disk", Grade.HINT if slow else Grade.OK, words, remedy)


def _opened(place: Workplace, path: Path | str) -> Finding:
    async def look() -> tuple[int, list[str]]:
        journal = place.existing_journal()
        try:
            return len(await journal.runs(limit=1_000)), await journal.weaknesses()
        finally:
            await journal.close()

    try:
        runs, weaknesses = asyncio.run(look())
    except RunNotFoundError as error:  # the server answers, and its database is no journal yet
        return Finding("journal", Grade.OK, f"{error.message}; the first run makes one")
    except PlanloomError as error:
        return Finding("journal", Grade.WRONG, error.message, error.remedy)
    words = f"{path} with {'1,000 or more runs' if runs == 1_000 else counted(runs, 'run')}"
    remedy = "turn it on where PostgreSQL is configured, and restart the server" if weaknesses else ""
    return Finding("journal", Grade.HINT if weaknesses else Grade.OK, "; ".join([words, *weaknesses]), remedy)


def fsync_s(folder: Path) -> float:
    """Return the median seconds that one page takes to be durable in this folder."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".planloom-doctor-") as file:
        for _ in range(FSYNCS):
            file.write(os.urandom(4096))
            file.flush()
            begin = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times)

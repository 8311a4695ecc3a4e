"""What `planloom serve` carries, beside a bare FastAPI app under the same uvicorn: `python -m benchmarks server`.

Rule 1: each server is a process of its own and this one calls both in turns, so that on two cores the caller's own work
weighs the same on either side.
Rule 2: the bare app does nothing, or one durable insert, for each submission; planloom records the run and runs it. The
bare app streams the very bytes that a run's followers were sent, at the moments at which that run's events came.
Rule 3: nothing counts before it is looked at: every run submitted must have ended well, every follower have all events
in order, every refusal its Retry-After.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from benchmarks.bare_app import MARK
from benchmarks.http_load import Caller, Listener, Load, all_heard, listening, posted, share_of
from benchmarks.rows import Budget, Row
from benchmarks.timing import Scale, in_turns, wall_s

TOOLS = """
import asyncio
import os

from planloom import tool


@tool(effects="none")
async def same(x: str) -> str:
    return x


@tool(effects="none")
async def until_there(path: str) -> str:
    while not os.path.exists(path):
        await asyncio.sleep(0.01)
    return path


@tool(effects="none")
async def nap(n: int) -> int:
    await asyncio.sleep(0.05)
    return n
"""
CONFIG = """
tools = ["tools.py"]
[server]
plans = ["plans"]
requests_per_minute = 1e9
max_active_runs = {active}
"""
PLANS: dict[str, Any] = {
    "one": {"name": "one", "steps": [{"id": "a", "tool": "same", "with": {"x": "hi"}}]},
    "waits": {"name": "waits", "steps": [{"id": "a", "tool": "until_there", "with": {"path": "${{ inputs.path }}"}}]},
    "wide": {
        "name": "wide",
        "steps": [
            {"id": "gate", "tool": "until_there", "with": {"path": "${{ inputs.path }}"}},
            {
                "id": "each",
                "tool": "nap",
                "for_each": "${{ inputs.many }}",
                "with": {"n": "${{ item }}"},
                "needs": ["gate"],
            },
        ],
        "limits": {"max_concurrent": 20, "max_tool_calls": 1_000, "timeout_seconds": 300},
    },
}
BARE, BARE_INSERT = "bare FastAPI endpoint", "same, with one durable insert"
BARE_STREAM = "bare FastAPI, the same bytes"
SUBMISSION = Budget(3.0, 1.5, why="a run is recorded, run, and recorded again: two commits, and more", front=False)
"""In CPU seconds, which other programs do not count in."""
AT_ONCE = 32
ACTIVE = 64
"""Runs that the server under overload may have under way."""


@dataclass(frozen=True, slots=True)
class Served:
    """A server's process, and where it listens."""

    process: subprocess.Popen[str]
    place: tuple[str, int]
    folder: Path

    async def ask(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        caller = Caller(*self.place)
        answer = await caller.ask(method, path, body)
        caller.close()
        assert answer.status == status, answer.body
        return answer.json()

    def cpu_s(self) -> float:
        """Return the CPU seconds that the process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return the memory that the process holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return the rows of submissions, of followers, and of more than it takes."""
    with _bare(folder / "bare") as bare:
        with _planloom(folder / "open", active=10_000) as ours:
            rows = await _submissions(ours, bare, scale)
            rows += await _followers(ours, bare, scale, folder)
        with _planloom(folder / "full", active=ACTIVE) as full:
            return rows + await _overload(full, bare, scale)


# --- submissions ------------------------------------------------------------------------------


async def _submissions(ours: Served, bare: Served, scale: Scale) -> list[Row]:
    count = scale.of(1_000, least=AT_ONCE)
    found: dict[str, list[Load]] = {}
    cpu_s: dict[str, list[float]] = {}

    def arm(server: Served, path: str) -> Callable[[], Any]:
        async def one() -> float:
            before_s = server.cpu_s()
            load = await posted(server.place, path, {"name": "one"}, count=count, at_once=AT_ONCE)
            if server is ours:
                await _all_ended_well(ours, "one")
            assert load.statuses() == {201}, load.statuses()
            found.setdefault(path, []).append(load)
            cpu_s.setdefault(path, []).append(server.cpu_s() - before_s)
            return load.took_s

        return one

    paths = ("/v1/runs", "/nothing", "/insert")
    took = await in_turns(*(arm(bare if path in paths[1:] else ours, path) for path in paths), rounds=scale.rounds(3))
    told = (await bare.ask("GET", "/count"))["inserted"]
    assert told == count * len(found["/insert"])
    assert await _succeeded(ours, "one") == {one.json()["run_id"] for load in found["/v1/runs"] for one in load.answers}
    each = {path: median(seconds) / count * 1e6 for path, seconds in zip(paths, took, strict=True)}
    p50, p99 = ({path: _latency_ms(loads[1:], share) for path, loads in found.items()} for share in (0.5, 0.99))
    cpu = {path: median(seconds[1:] or seconds) / count * 1e6 for path, seconds in cpu_s.items()}
    what = f"submissions, {AT_ONCE} callers"
    rows = []
    for at, beside, budget in (("/nothing", BARE, None), ("/insert", BARE_INSERT, SUBMISSION)):
        rows += [
            Row(_named(what, "a run", at), "µs", each["/v1/runs"], each[at], beside),
            Row(_named(what, "p50", at), "ms", p50["/v1/runs"], p50[at], beside),
            Row(_named(what, "p99", at), "ms", p99["/v1/runs"], p99[at], beside),
            Row(_named(what, "CPU of the server, run included", at), "µs", cpu["/v1/runs"], cpu[at], beside, budget),
        ]
    return rows


def _named(what: str, part: str, path: str) -> str:
    return f"{what}: {part}{' (insert)' if path == '/insert' else ''}"


def _latency_ms(loads: Sequence[Load], share: float) -> float:
    return share_of([one for load in loads for one in load.latencies_s], share) * 1e3


async def _all_ended_well(server: Served, plan: str) -> None:
    """Wait until every run of a plan has ended; all of them must have gone well."""
    while (await server.ask("GET", f"/v1/runs?status=running&plan={plan}&limit=1"))["runs"]:
        await asyncio.sleep(0.02)
    for status in ("failed", "cancelled"):
        assert not (await server.ask("GET", f"/v1/runs?status={status}&plan={plan}&limit=1"))["runs"]


async def _succeeded(server: Served, plan: str) -> set[str]:
    """Return the runs of a plan that ended well."""
    found: set[str] = set()
    before = ""
    while True:
        page = await server.ask("GET", f"/v1/runs?status=success&plan={plan}&limit=500{before}")
        found |= {run["run_id"] for run in page["runs"]}
        if page["next"] is None:
            return found
        before = f"&before={quote(page['next'])}"


# --- followers --------------------------------------------------------------------------------


async def _followers(ours: Served, bare: Served, scale: Scale, folder: Path) -> list[Row]:
    """Have so many follow one run while it runs; then as many once it has ended."""
    count, steps = scale.of(1_000, least=20), scale.of(200, least=10)
    what = f"{count:,} followers of one run of {steps} steps"
    live: list[tuple[float, float]] = []
    played: list[tuple[float, float]] = []
    late_s: list[float] = []
    stored_s: list[float] = []
    for _ in range(scale.rounds(2) + 1):  # the first does not count
        run, heard = await _followed(ours, folder / f"gate-{len(live)}", count, steps)
        live.append(heard)
        played.append(await _played(ours, bare, run["run_id"], folder, count))
        late_s.append(await _late(ours, f"/v1/runs/{run['run_id']}/events", count, run["last_seq"]))
        stored_s.append(await _late(bare, "/stored", count, run["last_seq"]))
    (ours_s, ours_lag_s), (bare_s, bare_lag_s) = (
        tuple(median(values) for values in zip(*found[1:], strict=True)) for found in (live, played)
    )
    each_us = 1e6 / run["last_seq"] / count
    late_ms, stored_ms = (median(seconds[1:]) * 1e3 for seconds in (late_s, stored_s))
    carried = Budget(2.0, 1.0, why="they share a core with the run and its journal", front=False)
    return [
        Row(f"{what}: until all have all", "ms", ours_s * 1e3, bare_s * 1e3, BARE_STREAM, carried),
        Row(f"{what}: an event delivered", "µs", ours_s * each_us, bare_s * each_us, BARE_STREAM),
        Row(f"{what}: p99 lag", "ms", ours_lag_s * 1e3, bare_lag_s * 1e3, BARE_STREAM),
        Row(f"{what}: all come once it has ended", "ms", late_ms, stored_ms, f"{BARE_STREAM}, from memory", carried),
    ]


async def _followed(ours: Served, gate: Path, count: int, steps: int) -> tuple[Any, tuple[float, float]]:
    """Return a run that has ended; the seconds until its followers had all, and the p99 of those behind an event."""
    inputs = {"path": str(gate), "many": list(range(steps))}
    run_id = (await ours.ask("POST", "/v1/runs", {"name": "wide", "inputs": inputs}, status=201))["run_id"]
    listeners = await listening(ours.place, f"/v1/runs/{run_id}/events", count)
    seen = [len(listener.lags_s) for listener in listeners]
    began = wall_s()
    gate.touch()
    run = await _ended(ours, run_id)
    took_s = await all_heard(listeners, last=run["last_seq"]) - began
    return run, (took_s, _p99_lag_s(listeners, seen))


async def _ended(ours: Served, run_id: str) -> Any:
    while True:
        run = (await ours.ask("GET", "/v1/runs?plan=wide&limit=1"))["runs"][0]
        assert run["run_id"] == run_id
        if run["status"] != "running":
            assert run["status"] == "success", await ours.ask("GET", f"/v1/runs/{run_id}")
            return run
        await asyncio.sleep(0.2)


async def _played(ours: Served, bare: Served, run_id: str, folder: Path, count: int) -> tuple[float, float]:
    """Have the bare app send a run's events to as many, at the same moments."""
    [listener] = await listening(ours.place, f"/v1/runs/{run_id}/events", 1)
    listener.keep = []
    await listener.ended
    frames, moments = [], []
    for frame in listener.keep:
        at = float(re.search(rb'"at":([0-9.e+]+)', frame)[1])  # type: ignore[index]
        moments.append(at)
        frames.append(re.sub(rb'"at":[0-9.e+]+', b'"at":' + MARK, frame, count=1).decode())
    opened = next(at for at, frame in zip(moments, frames, strict=True) if "event: attempt_succeeded" in frame)
    told = {"frames": frames, "moments_s": [max(0.0, at - opened) for at in moments]}
    (folder / "bare" / "frames.json").write_text(json.dumps(told), encoding="utf-8")
    listeners = await listening(bare.place, "/events", count)
    began = wall_s()
    await bare.ask("POST", "/play", status=202)
    took_s = await all_heard(listeners, last=len(frames)) - began
    return took_s, _p99_lag_s(listeners, [0] * count)


async def _late(server: Served, path: str, count: int, last: int) -> float:
    """Return the seconds until as many who come when all is there have all of it."""
    began = wall_s()
    return await all_heard(await listening(server.place, path, count, wait=False), last=last) - began


def _p99_lag_s(listeners: Sequence[Listener], seen: Sequence[int]) -> float:
    """Return how far behind they were, what they had been told before it began not counted."""
    return share_of([lag for one, before in zip(listeners, seen, strict=True) for lag in one.lags_s[before:]], 0.99)


# --- overload ---------------------------------------------------------------------------------


async def _overload(full: Served, bare: Served, scale: Scale) -> list[Row]:
    """Submit far more than may be under way: what is refused, how fast, and in how much memory."""
    gate = full.folder / "gate"
    body = {"name": "waits", "inputs": {"path": str(gate)}}
    count = scale.of(2_000, least=2 * ACTIVE)
    first = await posted(full.place, "/v1/runs", body, count=2 * ACTIVE, at_once=AT_ONCE)
    accepted = [answer.json()["run_id"] for answer in first.answers if answer.status == 201]
    assert len(accepted) == ACTIVE, len(accepted)
    before_mb = full.memory_mb()
    refused: list[Load] = []

    async def over() -> float:
        load = await posted(full.place, "/v1/runs", body, count=count, at_once=AT_ONCE)
        assert all(answer.status == 503 and int(answer.headers["retry-after"]) > 0 for answer in load.answers)
        refused.append(load)
        return load.took_s

    async def nothing() -> float:
        return (await posted(bare.place, "/nothing", {"name": "one"}, count=count, at_once=AT_ONCE)).took_s

    took = await in_turns(over, nothing, rounds=scale.rounds(3))
    refusal_us, nothing_us = (median(seconds) / count * 1e6 for seconds in took)
    after_mb = full.memory_mb()
    gate.touch()
    await _all_ended_well(full, "waits")
    assert await _succeeded(full, "waits") == set(accepted)
    what = f"overload, {ACTIVE} runs under way"
    return [
        Row(f"{what}: a refusal", "µs", refusal_us, nothing_us, BARE),
        Row(
            what=f"{what}: memory after {count * len(refused):,} refusals",
            unit="MB",
            ours=after_mb,
            reference=before_mb,
            beside="before them",
            budget=Budget(1.1, front=False),
        ),
    ]


# --- processes --------------------------------------------------------------------------------


@contextmanager
def _planloom(folder: Path, *, active: int) -> Iterator[Served]:
    """Serve the plans above from a folder of their own."""
    (folder / "plans").mkdir(parents=True)
    (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
    (folder / "planloom.toml").write_text(CONFIG.format(active=active), encoding="utf-8")
    for name, plan in PLANS.items():
        (folder / "plans" / f"{name}.json").write_text(json.dumps(plan), encoding="utf-8")
    command = ["-m", "planloom", "serve", "--no-page", "--port", "0", "--journal", str(folder / "runs.db")]
    with _process(command, folder) as served:
        yield served


@contextmanager
def _bare(folder: Path) -> Iterator[Served]:
    folder.mkdir()
    with _process([str(Path(__file__).with_name("bare_app.py")), str(folder)], folder) as served:
        yield served


@contextmanager
def _process(command: Sequence[str], folder: Path) -> Iterator[Served]:
    with (folder / "told.txt").open("w", encoding="utf-8") as told:
        process = subprocess.Popen([sys.executable, *command], cwd=folder, text=True, stderr=told)
    try:
        yield Served(process, _where(process, folder / "told.txt"), folder)
    finally:
        process.kill()
        process.wait()


def _where(process: subprocess.Popen[str], told: Path) -> tuple[str, int]:
    """Return where a process says that it listens, once it does."""
    until_s = wall_s() + 30
    while wall_s() < until_s and process.poll() is None:
        found = re.search(r"listening on http://([\d.]+):(\d+)", told.read_text(encoding="utf-8"))
        if found:
            return found[1], int(found[2])
        time.sleep(0.02)
    raise RuntimeError(f"the server does not listen: {told.read_text(encoding='utf-8')}")

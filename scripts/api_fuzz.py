"""`python -m scripts.api_fuzz`: Schemathesis against a real `planloom serve`, held to its own OpenAPI document.

Rule 1: a real process, a real journal, real tokens; nothing of the server is reached but over HTTP. The process has
been killed once before: some of its runs wait to be told what came of a step.
Rule 2: two parts, each with a server of its own. `callers` may do everything, and every answer is held to the document.
`strangers` may do nothing of what they ask, by every method there is, and nothing of the journal may change.
Rule 3: most calls are about runs that there are: ended ones, paused ones, and some that wait for a person.
Rule 4: what counts is what was sent and answered, as `api_hooks` saw it; rounds are added until there was enough.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

TOOLS = """
import os, time
from planloom import tool

@tool(effects="none")
def echo(x: str = "") -> str:
    return x

@tool(effects="none")
def greet(who: str) -> str:
    return who

@tool(effects="once")
def send(to: str) -> str:
    while os.path.exists("hold"):
        time.sleep(0.01)
    return to
"""
SETTINGS = """
tools = ["tools.py"]

[server]
requests_per_minute = 1e9
max_active_runs = 100_000
plans = ["plans"]
"""
SCOPES = ("read", "submit", "answer", "cancel")
ENDS: tuple[dict[str, Any], ...] = (
    {"steps": [{"id": "a", "tool": "echo", "with": {"x": "hi"}}]},
    {"steps": [{"id": "a", "tool": "echo", "for_each": [1, 2]}, {"id": "b", "wait": 0.01, "needs": ["a"]}]},
)
ASKS = {"steps": [{"id": "a", "approve": {"message": "Go on?", "form": {"type": "object"}}}]}
SENDS = {"steps": [{"id": "a", "tool": "send", "with": {"to": "Ann"}}]}
EACH = 30
"""Runs of each kind: an answer ends what waits for one."""
DRAWN = """
[dictionaries.runs]
values = %s

[dictionaries.resting]
values = %s

[dictionaries.steps]
values = ["a", "b", "a[0]"]

[dictionaries.plans]
values = %s

[parameters]
"path.run_id" = { dictionary = "runs", probability = 0.7 }
"path.key" = { dictionary = "steps", probability = 0.7 }
"path.name" = { dictionary = "names", probability = 0.5 }
"body.step" = { dictionary = "steps", probability = 0.7 }
"body.plan" = { dictionary = "plans", probability = 0.5 }
"body.name" = { dictionary = "names", probability = 0.5 }

[dictionaries.names]
values = ["hi", "none"]

# 421 as well: by chance a call names another host.
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 408, 409, 413, 421, 422]

[[operations]]
include-operation-id = ["answer_question", "resolve_step"]
parameters = { "path.run_id" = { dictionary = "resting", probability = 0.8 } }
"""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
    "negative_data_rejection",
    "response_headers_conformance",
)
STRANGERS_SHARE = 0.5
"""Calls of strangers, for each of a caller."""
CALLS_ANYWAY, CALLS_AN_EXAMPLE = 700, 22
"""About how many calls Schemathesis makes, and makes more for one example more of each operation."""
ROUNDS = 10


@dataclass(slots=True)
class Tally:
    """What came of the calls of one part."""

    requests: int = 0
    by_status: dict[str, int] = field(default_factory=dict)
    violations: int = 0
    changes: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    """Calls by what was tried: an operation, or a stranger and a method."""
    failed: int = 0
    """Rounds that Schemathesis did not end well."""

    def add(self, told: dict[str, Any], report: dict[str, Any]) -> None:
        """Add what the hooks counted and what Schemathesis reports of a round."""
        self.violations += report["test_cases"]["with_failures"] + report["test_cases"]["errored"]
        self.requests += told["requests"]
        self.changes += told["changes"]
        for mine, more in ((self.by_status, told["by_status"]), (self.kinds, told["kinds"])):
            for name, count in more.items():
                mine[name] = mine.get(name, 0) + count

    @property
    def broken(self) -> int:
        """Return how many answers were 500 or above; 503 says that nothing was taken, and none is due here."""
        return sum(count for status, count in self.by_status.items() if status >= "500")


@dataclass(frozen=True, slots=True)
class Place:
    """A server's folder, and who may do what there."""

    folder: Path
    tokens: dict[str, str]
    address: str = ""

    @property
    def journal(self) -> Path:
        return self.folder / "runs.db"

    def ask(self, path: str, body: Any = None) -> Any:
        """Return what the server answers to one who may do everything."""
        headers = {"Authorization": f"Bearer {self.tokens['all']}", "Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.address}/v1{path}", sent, headers)
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return json.load(answer)

    def begun(self, plan: dict[str, Any], count: int = EACH) -> list[str]:
        return [str(self.ask("/runs", {"plan": plan})["run_id"]) for _ in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5000, help="calls of those who may do everything")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    fine = True
    for part, wanted in (("callers", asked.requests), ("strangers", int(asked.requests * STRANGERS_SHARE))):
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="planloom-api-") as folder:
            tally = _part(part, Path(folder), wanted, asked.seed)
        _say(part, tally, time.monotonic() - began)
        fine = fine and not (tally.failed or tally.broken or tally.violations or tally.changes)
    return 0 if fine else 1


def _part(part: str, folder: Path, wanted: int, seed: int) -> Tally:
    tally, place = Tally(), _laid_out(folder)
    (folder / "hold").touch()
    with _server(place, killed=True) as killed:
        unknown = killed.begun(SENDS)
        _until(killed, unknown, lambda run: run["steps"][0]["status"] == "running")
    (folder / "hold").unlink()
    with _server(place) as server:
        runs = _runs(server, unknown)
        before = digest(place.journal)
        for number in range(ROUNDS):
            if tally.requests >= wanted:
                break
            examples = max(4, (wanted - tally.requests - CALLS_ANYWAY) // CALLS_AN_EXAMPLE)
            tally.failed += _round(part, server, runs, tally, examples=examples, seed=seed + number)
            if tally.failed:
                break
        tally.changes += part == "strangers" and digest(place.journal) != before
    if tally.broken:
        print((folder / "server.log").read_text(encoding="utf-8")[-5_000:])
    return tally


def _laid_out(folder: Path) -> Place:
    tokens = {name: secrets.token_urlsafe(24) for name in ("all", *SCOPES)}
    settings = SETTINGS
    for name in tokens:
        scopes = json.dumps(SCOPES if name == "all" else [name])
        settings += f'\n[server.tokens.{name}]\nenv = "TOKEN_{name.upper()}"\nscopes = {scopes}\n'
    (folder / "planloom.toml").write_text(settings, encoding="utf-8")
    (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
    (folder / "plans").mkdir()
    (folder / "plans" / "hi.yaml").write_text('steps: [{id: a, tool: echo, with: {x: "hi"}}]', encoding="utf-8")
    return Place(folder, tokens)


@contextmanager
def _server(place: Place, *, killed: bool = False) -> Iterator[Place]:
    """Serve the place while the block lasts; end as told, or at once."""
    serve = [sys.executable, "-m", "planloom", "serve", "--port", "0", "--journal", place.journal.name]
    told = os.environ | {f"TOKEN_{name.upper()}": token for name, token in place.tokens.items()}
    log = place.folder / "server.log"
    with log.open("w") as said, subprocess.Popen(serve, cwd=place.folder, env=told, stdout=said, stderr=said) as server:
        try:
            yield Place(place.folder, place.tokens, _address(server, log))
        finally:
            if killed:
                server.kill()
            else:
                server.terminate()
            server.wait(timeout=20)


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    while server.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text(encoding="utf-8"))
        if found:
            return found[0]
        time.sleep(0.05)
    raise SystemExit(f"planloom serve ended before it said where it listens: {log.read_text(encoding='utf-8')}")


def _runs(server: Place, unknown: list[str]) -> dict[str, list[str]]:
    """Begin runs of each kind, and return them once all of them have come to rest."""
    ended = [run_id for plan in ENDS for run_id in server.begun(plan)]
    asking, paused = server.begun(ASKS), server.begun(ASKS, EACH // 3)
    _until(server, [*unknown, *asking, *paused], lambda run: bool(run["questions"]))
    for run_id in paused:
        server.ask(f"/runs/{run_id}/pause", {})
    _until(server, ended, lambda run: run["status"] == "success")
    return {"ended": ended, "resting": [*unknown, *asking, *paused]}


def _until(server: Place, runs: list[str], holds: Any) -> None:
    deadline = time.monotonic() + 30
    for run_id in runs:
        while not holds(run := server.ask(f"/runs/{run_id}")):
            if time.monotonic() > deadline:
                raise SystemExit(f"run {run_id} did not come to rest: {run}")
            time.sleep(0.02)


def digest(journal: Path) -> str:
    """Return the SHA-256 of everything that a journal holds: runs, events, what people left, large values."""
    told = sha256()
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        for table in ("runs", "events", "posted", "blobs"):
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2"):  # noqa: S608 - names of our own
                told.update(repr(row).encode())
    return told.hexdigest()


def _round(part: str, server: Place, runs: dict[str, list[str]], tally: Tally, *, examples: int, seed: int) -> bool:
    """Let Schemathesis make its calls; return whether it ended badly."""
    drawn, out, report = (server.folder / name for name in ("schemathesis.toml", "told.json", "report.json"))
    every = [one for some in runs.values() for one in some]
    plans = [json.dumps(plan) for plan in (*ENDS, ASKS, SENDS)]
    document = server.folder / "openapi.json"
    document.write_text(json.dumps(server.ask("/openapi.json")), encoding="utf-8")
    drawn.write_text(DRAWN % tuple(json.dumps(one) for one in (every, runs["resting"], plans)), encoding="utf-8")
    about = {"part": part, "tokens": server.tokens, "ended": runs["ended"], "journal": str(server.journal)}
    root = Path(__file__).parent.parent
    told = {"SCHEMATHESIS_HOOKS": "scripts.api_hooks", "PYTHONPATH": str(root), "API_FUZZ_TOLD": str(out)}
    told |= {"API_FUZZ": json.dumps(about)}
    checks = ",".join(CHECKS) if part == "callers" else "nothing_is_done_for_strangers"
    command = [str(Path(sys.executable).with_name("st")), "--config-file", str(drawn), "run"]
    command += [str(document), "--url", server.address]
    if part == "callers":
        command += ["--header", f"Authorization: Bearer {server.tokens['all']}"]
    command += ["--checks", checks, "--continue-on-failure", "--max-examples", str(examples), "--seed", str(seed)]
    # One worker: CPython 3.11 reads source badly in two threads at once, and Hypothesis does so.
    command += ["--workers", "1", "--suppress-health-check", "all", "--no-color", "--request-timeout", "20"]
    command += ["--report-json-path", str(report)]
    code = subprocess.run(command, cwd=server.folder, env=os.environ | told, check=False).returncode
    tally.add(json.loads(out.read_text(encoding="utf-8")), json.loads(report.read_text(encoding="utf-8")))
    return code != 0


def _say(part: str, tally: Tally, seconds: float) -> None:
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(tally.by_status.items()))
    rarest = min(tally.kinds.values(), default=0)
    told = f"{tally.broken} answers of 500 and above, {tally.violations} violations of the document"
    told += f", {tally.changes} changes that nobody may make" if part == "strangers" else ""
    print(f"\n{part}: {tally.requests:,} requests in {seconds:.0f} s ({statuses})")
    print(f"{part}: {len(tally.kinds):,} kinds of calls, the rarest {rarest} times\n{part}: {told}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

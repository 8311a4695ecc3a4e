"""`python -m scripts.api_fuzz`: Schemathesis against a real `planloom serve`, held to its own OpenAPI document.

Rule 1: a real process, a real journal, a real token; nothing of the server is reached but over HTTP.
Rule 2: half of the calls are about runs that there are: ended ones, failed ones, and some that wait for a person.
Rule 3: what counts is what Schemathesis counts: answers of 500 and above, answers that are not as the document says,
calls without a token that are served. A stream of events has no end to wait for, so following is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

TOOLS = """
from planloom import tool

@tool(effects="none")
def echo(x: str = "") -> str:
    return x

@tool(effects="once")
def send(to: str) -> str:
    return to
"""
SETTINGS = """
tools = ["tools.py"]

[server]
requests_per_minute = 1e9
max_active_runs = 100_000
plans = ["plans"]

[server.tokens.fuzz]
env = "FUZZ_TOKEN"
scopes = ["read", "submit", "answer", "cancel"]
"""
PLANS: tuple[dict[str, Any], ...] = (
    {"steps": [{"id": "a", "tool": "echo", "with": {"x": "hi"}}]},
    {"steps": [{"id": "a", "approve": {"message": "Go on?", "form": {"type": "object"}}}]},
    {"steps": [{"id": "a", "tool": "echo", "for_each": [1, 2]}, {"id": "b", "wait": 0.01, "needs": ["a"]}]},
)
EACH = 30
"""Runs of each plan: an answer ends what waits for one."""
DRAWN = """
[dictionaries.runs]
values = %s

[dictionaries.steps]
values = ["a", "b", "a[0]"]

[parameters]
"path.run_id" = { dictionary = "runs", probability = 0.7 }
"path.key" = { dictionary = "steps", probability = 0.7 }
"""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1000, help="random calls of each operation")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="planloom-api-") as place:
        folder = Path(place)
        (folder / "plans").mkdir()
        (folder / "plans" / "hi.yaml").write_text('steps: [{id: a, tool: echo, with: {x: "hi"}}]', encoding="utf-8")
        (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
        (folder / "planloom.toml").write_text(SETTINGS, encoding="utf-8")
        token = secrets.token_urlsafe(24)
        serve = [sys.executable, "-m", "planloom", "serve", "--port", "0", "--journal", "runs.db"]
        told = os.environ | {"FUZZ_TOKEN": token}
        log = folder / "server.log"
        with log.open("w") as said, subprocess.Popen(serve, cwd=folder, env=told, stdout=said, stderr=said) as server:
            try:
                address = _address(server, log)
                runs = [_submitted(address, token, plan) for plan in PLANS for _ in range(EACH)]
                drawn = folder / "schemathesis.toml"
                drawn.write_text(DRAWN % json.dumps(runs), encoding="utf-8")
                return _tried(address, token, drawn, asked.examples, asked.seed)
            finally:
                server.terminate()
                server.wait(timeout=20)


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    while server.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text(encoding="utf-8"))
        if found:
            return found[0]
        time.sleep(0.05)
    raise SystemExit(f"planloom serve ended before it said where it listens: {log.read_text(encoding='utf-8')}")


def _submitted(address: str, token: str, plan: dict[str, Any]) -> str:
    """Start a run; return its id."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    asked = urllib.request.Request(f"{address}/v1/runs", json.dumps({"plan": plan}).encode(), headers)
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return str(json.load(answer)["run_id"])


def _tried(address: str, token: str, drawn: Path, examples: int, seed: int) -> int:
    st = str(Path(sys.executable).with_name("st"))
    command = [st, "--config-file", str(drawn), "run", f"{address}/v1/openapi.json"]
    command += ["--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS), "--continue-on-failure"]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--workers", "2"]
    command += ["--suppress-health-check", "all", "--no-color", "--exclude-path-regex", "/events$"]
    return subprocess.run(command, cwd=drawn.parent, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

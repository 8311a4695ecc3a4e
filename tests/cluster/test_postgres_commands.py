"""Commands on a journal in PostgreSQL, each a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.cluster.servers import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.servers import Postgres

TOOLS = """
from planloom import tool


@tool(name="t.double", effects="none")
def double(number: int) -> int:
    return number * 2
"""
PLAN = {
    "name": "ask",
    "steps": [
        {"id": "first", "tool": "t.double", "with": {"number": 21}},
        {"id": "sure", "needs": ["first"], "approve": {"message": "Really?"}},
        {"id": "last", "tool": "t.double", "needs": ["sure"], "with": {"number": "${{ steps.first.output }}"}},
    ],
}

Call = "Callable[..., subprocess.CompletedProcess[str]]"


@pytest.fixture
def call(tmp_path: Path, postgres: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    (tmp_path / "tools.py").write_text(TOOLS)
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    (tmp_path / "planloom.toml").write_text(f'tools = ["tools.py"]\njournal = "{postgres}"\n')

    def called(*arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "planloom", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    return called


@pytest.mark.slow
def test_a_run_is_listed_shown_answered_resumed_and_held_against_its_laws(call: Any) -> None:
    call("run", "plan.json", "--run-id", "r1", code=4)

    listed = json.loads(call("--json", "list").stdout)
    shown = json.loads(call("show", "r1", "--json").stdout)
    call("approve", "r1", "sure", "--by", "ann")
    resumed = call("resume", "r1")
    followed = [json.loads(line)["event"] for line in call("events", "r1", "--follow", "--json").stdout.splitlines()]
    explained = call("explain", "r1", "last").stdout
    verified = call("verify", "r1").stdout
    call("replay", "r1")
    looked = call("doctor").stdout

    assert [(row["run_id"], row["status"], row["driven"]) for row in listed] == [("r1", "running", False)]
    assert shown["blocked"][0]["step"] == "sure"
    assert "84" in resumed.stdout
    assert followed[0] == "run_started"
    assert followed[-1] == "run_finished"
    assert "sure" in explained
    assert "every law holds" in verified
    assert "with 1 run; its setting fsync is off" in looked


@pytest.mark.slow
def test_a_changed_record_is_found_out_and_the_other_runs_are_not_touched_by_it(call: Any, postgres: str) -> None:
    for name in ("r1", "r2"):
        call("run", "plan.json", "--run-id", name, code=4)
    with psycopg.connect(postgres) as connection:
        connection.execute(
            "UPDATE planloom.events SET body = replace(body, '42', '43')"
            " WHERE run_id = 'r1' AND kind = 'attempt_succeeded'"
        )

    verified = call("verify", "r1", code=1).stdout
    shown = call("show", "r1", code=6).stderr

    assert "BROKEN" in verified
    assert "run 'r1' is damaged at event" in shown
    assert "every law holds" in call("verify", "r2").stdout


@pytest.mark.slow
def test_a_run_is_followed_and_cancelled_from_another_process(call: Any, tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(
        TOOLS + "\n\n@tool(name='t.wait', effects='none')\nasync def wait() -> None:\n"
        "    import asyncio\n    await asyncio.sleep(60)\n"
    )
    (tmp_path / "wait.json").write_text(json.dumps({"name": "wait", "steps": [{"id": "long", "tool": "t.wait"}]}))
    running = subprocess.Popen(
        [sys.executable, "-m", "planloom", "run", "wait.json", "--run-id", "r2"], cwd=tmp_path, stderr=subprocess.PIPE
    )
    try:
        until(lambda: '"driven": true' in call("--json", "list").stdout, what="the run")
        busy = call("resume", "r2", code=6)
        call("cancel", "r2", "--by", "bob")
        running.communicate(timeout=30)
        ended = call("watch", "r2", code=130).stderr
    finally:
        running.kill()
        running.communicate()

    assert "drives run 'r2' now" in busy.stderr
    assert "cancel" in ended


@pytest.mark.slow
def test_a_database_that_is_no_journal_is_left_alone_by_whoever_reads(
    call: Any, postgres: str, postgres_server: Postgres
) -> None:
    name = postgres.split("/")[3].split("?", maxsplit=1)[0]

    refused = call("show", "r1", code=6)
    listed = call("list")
    looked = call("doctor")

    assert "there is no journal in" in refused.stderr
    assert "no runs in" in listed.stdout
    assert "the first run makes one" in looked.stdout
    assert postgres_server.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'planloom'", database=name) == "0"


@pytest.mark.slow
def test_a_password_is_taken_from_the_environment_and_from_nowhere_else(call: Any, postgres: str) -> None:
    written = postgres.replace("postgres@", "postgres:s3cret-word@")
    named = postgres.replace("postgres@", "postgres:${PLANLOOM_DB_PASSWORD}@")

    refused = call("list", "--journal", written, code=7)
    unset = call("list", "--journal", named, code=7)
    call("run", "plan.json", "--run-id", "r1", "--journal", named, code=4, PLANLOOM_DB_PASSWORD="s3cret-word")
    away = call("list", "--journal", named.replace("/test_", "/no_"), code=6, PLANLOOM_DB_PASSWORD="s3cret-word")

    assert "there is a password in the address" in refused.stderr
    assert "PLANLOOM_DB_PASSWORD" in unset.stderr
    assert "does not exist" in away.stderr
    assert all("s3cret-word" not in one.stdout + one.stderr for one in (refused, unset, away))

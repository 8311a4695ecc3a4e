from __future__ import annotations

import asyncio
import json
import sqlite3
from datetime import datetime

from cli.conftest import Folder
from planloom import Effects, SqliteJournal, parse_plan
from planloom.core.events import AttemptWaiting, RunStarted, StepDispatched, ToolFacts
from planloom.journal.chain import Chains

STEPS = (
    {"id": "a", "tool": "t.echo", "with": {"value": "one two"}},
    {"id": "each", "tool": "t.count", "for_each": ["x", "y z"], "with": {"text": "${{ item }}"}},
    {"id": "b", "tool": "t.count", "with": {"text": "${{ steps.a.output }}"}},
)


def ran(folder: Folder, run_id: str = "r1") -> None:
    assert folder.call("run", folder.plan("p.json", *STEPS), "--run-id", run_id).code == 0


def test_list_without_a_journal_lists_nothing_and_makes_none(folder: Folder) -> None:
    assert folder.call("list").out == "no runs in .planloom/runs.db\n"
    assert folder.call("list", "--json").value == []
    assert not (folder.path / ".planloom").exists()


def test_list_shows_the_newest_run_first(folder: Folder) -> None:
    ran(folder, "r1")
    ran(folder, "r2")

    lines = folder.call("list").out.splitlines()

    assert [line.split()[:3] for line in lines] == [
        ["run", "plan", "status"],
        ["r2", "p", "success"],
        ["r1", "p", "success"],
    ]
    assert [row["run_id"] for row in folder.call("list", "--limit", "1", "--json").value] == ["r2"]
    assert folder.call("list", "--status", "failed", "--json").value == []


def test_list_says_which_runs_nobody_drives(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", {"id": "ok", "approve": "Fine?"}), "--run-id", "r1")

    assert folder.call("list").out.splitlines()[1].split()[:3] == ["r1", "p", "unfinished"]
    assert folder.call("list", "--json").value[0]["driven"] is False


def test_show_has_a_line_for_each_step_and_the_output(folder: Folder) -> None:
    ran(folder)

    lines = folder.call("show", "r1").out.splitlines()

    assert lines[0].startswith("run r1 of plan p, started ")
    assert lines[1].startswith("success: 3 of 3 steps completed")
    assert [line.split()[:3] for line in lines[4:7]] == [
        ["a", "✓", "completed"], ["each", "✓", "completed"], ["b", "✓", "completed"],
    ]  # fmt: skip
    assert lines[-1] == 'output: {"each": [1, 2], "b": 2}'


def test_show_can_show_items_and_a_timeline(folder: Folder) -> None:
    ran(folder)

    assert "\neach[1] " in folder.call("show", "r1", "--parts").out
    assert "\n✓ each[0] " in folder.call("show", "r1", "--timeline").out
    attempts = folder.call("show", "r1", "--timeline", "--json").value["attempts"]
    assert sorted(attempt["step"] for attempt in attempts) == ["a", "b", "each[0]", "each[1]"]


def test_events_are_numbered_without_gaps_and_json_line_by_line(folder: Folder) -> None:
    ran(folder)

    values = [json.loads(line) for line in folder.call("events", "r1", "--json").out.splitlines()]

    assert [value["seq"] for value in values] == list(range(1, len(values) + 1))
    assert (values[0]["event"], values[-1]["event"]) == ("run_started", "run_finished")
    assert values[0]["plan"]["name"] == "p"
    assert len(folder.call("events", "r1", "--after", "3").out.splitlines()) == len(values) - 3


def test_following_a_run_that_ended_ends_too(folder: Folder) -> None:
    ran(folder)

    assert folder.call("events", "r1", "--follow").out == folder.call("events", "r1").out


def test_a_large_value_is_printed_whole(folder: Folder) -> None:
    text = "word " * 20_000
    folder.call("run", folder.plan("p.json", {"id": "a", "tool": "t.echo", "with": {"value": text}}), "--run-id", "r1")

    values = [json.loads(line) for line in folder.call("events", "r1", "--json").out.splitlines()]

    assert [value["output"] for value in values if value["event"] == "attempt_succeeded"] == [text]


def test_replay_of_an_honest_record_is_equal(folder: Folder) -> None:
    ran(folder)

    ended = folder.call("replay", "r1", "--json")

    assert ended.code == 0
    assert ended.value["equal"] is True
    assert (folder.path / "calls.log").read_text() == "count\n" * 3


def test_replay_names_the_first_decision_that_does_not_follow_from_the_facts(folder: Folder) -> None:
    ran(folder)
    with sqlite3.connect(folder.path / ".planloom/runs.db") as journal:
        columns = "seq, cause, kind, version, at, body"
        [(seq, *row, body)] = journal.execute(f"SELECT {columns} FROM events WHERE kind = 'run_finished'").fetchall()
        [(before,)] = journal.execute("SELECT link FROM events WHERE seq = ?", (seq - 1,)).fetchall()
        forged = json.dumps(json.loads(body) | {"output": "forged"})
        link = Chains().links("r1").after(before, seq, *row, forged)  # without a key anybody can make one
        journal.execute("UPDATE events SET body = ?, link = ? WHERE seq = ?", (forged, link, seq))

    ended = folder.call("replay", "r1", "--json")

    assert ended.code == 1
    assert ended.value["equal"] is False
    assert ended.value["seq"] == seq
    assert "forged" in ended.value["recorded"]
    assert "forged" not in ended.value["decided"]


def test_no_run_of_that_name_exits_with_6(folder: Folder) -> None:
    ran(folder)

    for command in ("show", "events", "replay", "resume", "cancel"):
        ended = folder.call(command, "r9")
        assert ended.code == 6, command
        assert ended.err.startswith("error[journal.no_run]"), command


def test_show_tells_until_when_a_step_waits_for_a_rate(folder: Folder) -> None:
    noon = 1_760_000_000.0
    step = {"id": "a", "tool": "t.echo", "with": {"value": "x"}}
    plan = parse_plan(json.dumps({"planloom": 1, "name": "p", "steps": [step]}))

    async def record() -> None:
        journal = SqliteJournal(folder.path / ".planloom/runs.db")
        events = (
            RunStarted(plan, {}, noon, tools={"t.echo": ToolFacts("d", Effects.NONE)}),
            StepDispatched("a", 1, 1, noon),
            AttemptWaiting("a", 1, 1, noon, "rate", noon + 61),
        )
        writer = await journal.create("r1", lambda seq, error: None)
        writer.append(events, (0, 1, 2))
        await writer.close()
        await journal.close()

    asyncio.run(record())

    until = f"{datetime.fromtimestamp(noon + 61).astimezone():%H:%M:%S}"
    assert f"a waiting: rate until {until}" in folder.call("show", "r1").out.splitlines()

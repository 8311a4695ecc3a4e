"""`planloom verify`: the laws of a record, held against it from the command line."""

from __future__ import annotations

import json
import sqlite3

import pytest

from cli.conftest import Folder

STEPS = (
    {"id": "a", "tool": "t.echo"},
    {"id": "once", "tool": "t.wait_once", "with": {"seconds": 0}, "needs": ["a"]},
    {"id": "each", "tool": "t.count", "for_each": ["x", "y z"], "with": {"text": "${{ item }}"}},
)
JOURNAL = ".planloom/runs.db"


@pytest.fixture
def ran(folder: Folder) -> Folder:
    assert folder.call("run", folder.plan("p.json", *STEPS), "--run-id", "r1").code == 0
    return folder


def log_of(folder: Folder, *calls: object) -> str:
    folder.write("tools.log", "".join(json.dumps(call) + "\n" for call in calls))
    return "tools.log"


def paid(**told: object) -> dict[str, object]:
    return {"run": "r1", "step": "once", "attempt": 1, "key": "r1/once", "tool": "t.wait_once", **told}


def test_verify_says_of_each_law_what_it_was_held_against(ran: Folder) -> None:
    ended = ran.call("verify", "r1")

    assert ended.code == 0
    assert "I3     holds: 3 attempts without effects, 1 once attempts" in ended.out.splitlines()
    assert "I8     holds: 1 maps, 2 items" in ended.out.splitlines()
    assert ended.out.splitlines()[-1] == "run r1: every law holds"


def test_verify_answers_in_json(ran: Folder) -> None:
    ended = ran.call("verify", "r1", "--json")

    laws = {law["law"]: law for law in ended.value["laws"]}
    assert (ended.code, ended.value["holds"], ended.value["violations"]) == (0, True, [])
    assert laws["I1"]["counted"] == {"events": ended.value["events"]}
    assert all(law["broken"] == 0 for law in laws.values())


def test_a_call_of_a_once_tool_that_was_made_twice_breaks_the_third_law(ran: Folder) -> None:
    ended = ran.call("verify", "r1", "--tool-log", log_of(ran, paid(), paid()), "--json")

    assert ended.code == 1
    assert [(one["law"], one["step"]) for one in ended.value["violations"]] == [("I3", "once")]


def test_a_call_that_no_start_is_on_record_of_breaks_the_third_law(ran: Folder) -> None:
    log = log_of(ran, paid(), paid(attempt=2, key="another"), paid(run="r2", attempt=7))

    ended = ran.call("verify", "r1", "--tool-log", log)

    assert ended.code == 1
    assert "I3     BROKEN 1 times" in ended.out
    assert "once: t.wait_once was called for attempt 2, and no start of that is on record" in ended.out


def test_a_tool_log_that_tells_of_each_call_once_is_held_against_the_record(ran: Folder) -> None:
    ended = ran.call("verify", "r1", "--tool-log", log_of(ran, paid()))

    assert ended.code == 0
    assert "1 calls in the tool log" in ended.out


@pytest.mark.parametrize("line", ['{"run": "r1"}', "no JSON", '["a"]', '{"step":1,"attempt":1,"key":"k","tool":"t"}'])
def test_a_line_of_a_tool_log_that_is_no_call_is_named(ran: Folder, line: str) -> None:
    ran.write("tools.log", json.dumps(paid()) + "\n\n" + line + "\n")

    ended = ran.call("verify", "r1", "--tool-log", "tools.log")

    assert ended.code == 7
    assert "error[config.tool_log]: line 3 of tools.log is no call" in ended.err
    assert "try: write {" in ended.err


def test_a_tool_log_that_is_not_there_is_an_error(ran: Folder) -> None:
    ended = ran.call("verify", "r1", "--tool-log", "nowhere.log")

    assert ended.code == 7
    assert "cannot read the tool log nowhere.log" in ended.err


def test_a_record_that_is_not_what_was_written_is_told_as_a_broken_law(ran: Folder) -> None:
    with sqlite3.connect(ran.path / JOURNAL) as database:
        changed = database.execute("update events set body = replace(body, 'done', 'gone') where body like '%done%'")
        assert changed.rowcount > 0

    ended = ran.call("verify", "r1", "--json")

    assert ended.code == 1
    assert [one["law"] for one in ended.value["violations"]] == ["record"]
    assert "Traceback" not in ended.err


def test_verify_of_a_run_that_is_not_there_is_an_error(ran: Folder) -> None:
    assert ran.call("verify", "r2").code == 6


def test_verify_says_how_many_events_are_linked_and_what_the_last_link_is(ran: Folder) -> None:
    told = ran.call("verify", "r1", "--json").value["links"]
    shown = ran.call("verify", "r1")

    assert (told["keyed"], len(told["last"])) == (False, 32)
    assert shown.out.startswith(f"links  fit: {told['events']} events; last {told['last']}\n")

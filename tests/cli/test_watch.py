from __future__ import annotations

import json
import os
import pty
import signal
import subprocess

import pytest

from cli.conftest import Folder
from cli.test_processes import PROGRAM, environment, read_until, running
from planloom.cli import watch

OK = {"id": "a", "tool": "t.echo", "with": {"value": "one two"}}
ASKS = {"id": "ok", "approve": "Fine?"}
UNTIL_THERE = {
    "id": "there",
    "tool": "t.fail_until_there",
    "with": {"path": "there.txt"},
    "retry": {"max_attempts": 100, "initial_delay": 0.05, "max_delay": 0.05},
}


def test_a_run_that_has_ended_is_told_with_its_output_and_its_exit_code(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", OK), "--run-id", "r1")

    ended = folder.call("watch", "r1")

    assert (ended.code, ended.out) == (0, "one two\n")
    assert ended.err.splitlines()[0].split()[1:3] == ["a", "completed"]
    assert ended.err.splitlines()[1].startswith("success: 1 of 1 step completed")


def test_a_run_that_failed_ends_the_watching_with_its_code(folder: Folder) -> None:
    failing = {"id": "a", "tool": "t.fail_until_there", "with": {"path": "never"}}
    assert folder.call("run", folder.plan("p.json", failing), "--run-id", "r1").code == 1

    ended = folder.call("watch", "r1")

    assert ended.code == 1
    assert ended.err.splitlines()[-1] == "to run the rest: planloom resume --failed r1"


def test_with_json_stdout_is_an_event_a_line_as_events_prints_them(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", OK), "--run-id", "r1")

    ended = folder.call("watch", "r1", "--json")

    assert ended.out == folder.call("events", "r1", "--json").out
    assert [json.loads(line)["event"] for line in ended.out.splitlines()][-1] == "run_finished"


def test_a_run_that_is_not_there_is_said_at_once(folder: Folder) -> None:
    without = folder.call("watch", "r1")
    folder.call("run", folder.plan("p.json", OK), "--run-id", "r1")

    assert without.code == folder.call("watch", "r2").code == 6
    assert "try: " in without.err


def test_until_idle_ends_where_somebody_has_to_answer_and_says_how(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "IDLE_S", 0.01)
    folder.call("run", folder.plan("p.json", ASKS), "--run-id", "r1")

    ended = folder.call("watch", "r1", "--until-idle")

    assert ended.code == 4
    assert "to go on: planloom approve r1 ok" in ended.err.splitlines()
    assert "then:     planloom resume r1" in ended.err.splitlines()


@pytest.mark.slow
def test_a_run_that_another_process_drives_is_told_live_to_its_end(folder: Folder) -> None:
    plan = folder.plan("p.json", OK, UNTIL_THERE)

    with running(folder, "run", plan, "--run-id", "r1") as driver:
        read_until(driver, "a completed")
        with running(folder, "watch", "r1") as watcher:
            read_until(watcher, "there attempt 1 failed")
            folder.write("there.txt", "")
            out, err = watcher.communicate(timeout=20)

    assert watcher.returncode == 0, err
    assert json.loads(out) == {"a": "one two", "there": "there"}


@pytest.mark.slow
def test_a_driver_that_dies_is_told_and_the_one_after_it_is_watched_on(folder: Folder) -> None:
    plan = folder.plan("p.json", OK, UNTIL_THERE)
    with running(folder, "run", plan, "--run-id", "r1") as driver:
        read_until(driver, "a completed")
        with running(folder, "watch", "r1") as watcher:
            read_until(watcher, "there attempt 1 failed")
            driver.kill()

            read_until(watcher, "nobody drives it; to go on: planloom resume r1")
            folder.write("there.txt", "")
            resumed = folder.call("resume", "r1")
            watcher.communicate(timeout=20)

    assert (resumed.code, watcher.returncode) == (0, 0)


@pytest.mark.slow
def test_ctrl_c_ends_the_watching_and_not_the_run(folder: Folder) -> None:
    with running(folder, "run", folder.plan("p.json", OK, UNTIL_THERE), "--run-id", "r1") as driver:
        read_until(driver, "a completed")
        with running(folder, "watch", "r1") as watcher:
            read_until(watcher, "a completed")
            watcher.send_signal(signal.SIGINT)
            _, err = watcher.communicate(timeout=20)

        assert watcher.returncode == 130
        assert err.splitlines()[-1] == "no longer watching run r1, which goes on without it"
        folder.write("there.txt", "")
        assert driver.wait(timeout=20) == 0


@pytest.mark.slow
def test_in_a_terminal_it_is_a_table_that_changes_in_place(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", OK), "--run-id", "r1")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "watch", "r1"],
        cwd=folder.path,
        env=environment(TERM="xterm-256color"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # what Linux says at the end of a terminal
                break
            if not piece:
                break
            shown += piece
    os.close(ours)

    assert process.returncode == 0
    assert "\x1b[?25l" in shown.decode()
    assert "1 step: 1 completed" in shown.decode()

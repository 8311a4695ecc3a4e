from __future__ import annotations

import json
import signal

import pytest

from cli.conftest import Folder
from cli.test_processes import read_until, running

OK = {"id": "a", "tool": "t.echo", "with": {"value": "one two"}}


def test_a_run_is_told_as_cloudevents_from_its_first_event_to_its_last(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", OK), "--run-id", "a/1")

    ended = folder.call("tail", "a/1", "--json")

    told = [json.loads(line) for line in ended.out.splitlines()]
    assert ended.code == 0
    assert [one["type"] for one in told] == [
        "planloom.run.started",
        "planloom.step.requested",
        "planloom.step.started",
        "planloom.step.completed",
        "planloom.run.finished",
    ]
    assert {one["source"] for one in told} == {"/planloom/runs/a%2F1"}
    assert [one["sequence"] for one in told] == sorted(one["sequence"] for one in told)
    assert len({one["id"] for one in told}) == len(told)


def test_only_what_is_asked_for_is_told(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", OK), "--run-id", "r1")

    finished = folder.call("tail", "r1", "--type", "planloom.run.*")
    later = folder.call("tail", "r1", "--after", "2", "--json")

    assert [line.split()[1] for line in finished.out.splitlines()] == ["planloom.run.started", "planloom.run.finished"]
    assert [json.loads(line)["sequence"] for line in later.out.splitlines()] == ["0000000003", "0000000004"]


def test_one_run_or_all_of_a_cluster_and_nothing_else(folder: Folder) -> None:
    assert folder.call("tail").code == folder.call("tail", "r1", "--all").code == 2
    assert folder.call("tail", "--all", "--after", "3").code == 2
    assert folder.call("tail", "r1").code == 6


@pytest.mark.slow
def test_a_run_of_another_process_is_followed_and_ctrl_c_ends_only_that(folder: Folder) -> None:
    waiting = {"id": "w", "tool": "t.wait", "with": {"seconds": 600}}
    with running(folder, "run", folder.plan("p.json", OK, waiting), "--run-id", "r1") as run:
        read_until(run, "completed")
        with running(folder, "tail", "r1") as following:
            assert following.stdout is not None
            assert "planloom.run.started" in following.stdout.readline()
            following.send_signal(signal.SIGINT)
            _, err = following.communicate(timeout=20)

        assert following.returncode == 130
        assert "no longer following" in err
        assert run.poll() is None

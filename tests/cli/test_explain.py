from __future__ import annotations

from cli.conftest import Folder

STEPS = (
    {"id": "a", "tool": "t.echo", "with": {"value": "one two"}},
    {"id": "b", "tool": "t.count", "with": {"text": "${{ steps.a.output }}"}},
)


def test_explain_tells_what_led_to_a_step_back_to_the_submission(folder: Folder) -> None:
    assert folder.call("run", folder.plan("p.json", *STEPS), "--run-id", "r1").code == 0

    lines = folder.call("explain", "r1", "b").out.splitlines()

    assert lines[:2] == ["step b of run r1: completed", "it needs a (completed)"]
    assert [line.split(maxsplit=2)[2] for line in lines[2:]] == [
        "b was done, attempt 1",
        "b started, attempt 1",
        "a was done, attempt 1",
        "a started, attempt 1",
        "the run was submitted: plan p",
    ]


def test_explain_as_json_has_each_link_of_the_chain(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", *STEPS), "--run-id", "r1")

    value = folder.call("explain", "r1", "b", "--json").value

    assert (value["status"], value["needs"]) == ("completed", {"a": "completed"})
    assert [link["event"] for link in value["chain"]][-1] == "run_started"
    assert value["chain"][-1]["seq"] == 1


def test_explain_of_a_step_or_a_run_that_is_not_there_says_so(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", *STEPS), "--run-id", "r1")

    step, run = folder.call("explain", "r1", "bb"), folder.call("explain", "r2", "a")

    assert (step.code, run.code) != (0, 0)
    assert "has no step 'bb'" in step.err
    assert "r2" in run.err

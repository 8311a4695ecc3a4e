"""`planloom inflight`: before a deploy, which runs that have not ended would go on with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Folder
from planloom.tools import registry

ASK = (
    {"id": "a", "tool": "t.echo", "with": {"value": "x"}},
    {"id": "ok", "approve": "Fine?", "needs": ["a"]},
    {"id": "b", "tool": "t.count", "needs": ["ok"], "with": {"text": "one two"}},
)
NEW_TOOLS = '''
from planloom import tool

open("imported.log", "a").close()

@tool(name="t.echo", effects="none")
def echo(value: str = "x") -> str:
    """Return the value."""
    open("called.log", "a").close()
    return value
'''
WITH_COUNT = '''
@tool(name="t.count", effects="none")
def count(words: list[str]) -> int:
    """Return how many words there are."""
    open("called.log", "a").close()
    return len(words)
'''


def begun(folder: Folder, *run_ids: str) -> None:
    for run_id in run_ids:
        folder.call("run", folder.plan("p.json", *ASK), "--run-id", run_id)


def new_version(folder: Folder, tools: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of another version of the project, whose tools are those of another process."""
    monkeypatch.setattr(registry, "_DEFAULT", registry.ToolRegistry())
    path = folder.path / "next"
    path.mkdir()
    (path / "new_tools.py").write_text(tools)
    (path / "planloom.toml").write_text('tools = ["new_tools.py"]\n')
    return path


def test_where_nothing_has_changed_every_run_goes_on(folder: Folder) -> None:
    begun(folder, "r1", "r2")

    ended = folder.call("inflight")

    assert ended.code == 0
    assert ended.out.splitlines() == [
        "run r1 of plan p: goes on",
        "run r2 of plan p: goes on",
        "",
        "2 unfinished runs; none cannot go on",
    ]


def test_a_run_that_a_new_version_strands_is_told_of_with_a_code_of_its_own(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(folder, "r1")
    path = new_version(folder, NEW_TOOLS, monkeypatch)

    ended = folder.call("inflight", "--against", str(path))
    resumed = folder.call("resume", "r1", "--tools", str(path / "new_tools.py"))

    assert ended.code == 9
    assert "run r1 of plan p: cannot go on" in ended.out
    assert "stops: run r1 uses tools that are not here: t.count" in ended.out
    assert "tools that are not here: t.count" in resumed.err


def test_arguments_that_fit_no_longer_are_told_of_and_fail_their_step(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(folder, "r1")
    path = new_version(folder, NEW_TOOLS + WITH_COUNT, monkeypatch)

    ended = folder.call("inflight", "--against", str(path), "--json")
    folder.call("approve", "r1", "ok")
    resumed = folder.call("resume", "r1", "--tools", str(path / "new_tools.py"))

    assert ended.code == 9
    assert ended.value["cannot_go_on"] == ["r1"]
    (run,) = ended.value["runs"]
    assert run["steps_left"] == ["ok", "b"]
    assert [(one["weight"], one["step"]) for one in run["findings"]] == [("fails", "b")]
    assert "words: is missing" in run["findings"][0]["what"]
    assert resumed.code == 1


def test_nothing_is_written_and_no_tool_is_called(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(folder, "r1")
    path = new_version(folder, NEW_TOOLS + WITH_COUNT, monkeypatch)
    journal = folder.path / ".planloom" / "runs.db"
    before = journal.read_bytes()

    folder.call("inflight", "--against", str(path))

    assert journal.read_bytes() == before
    assert (folder.path / "imported.log").exists()
    assert not (folder.path / "called.log").exists()


def test_only_runs_that_have_not_ended_are_looked_at(folder: Folder) -> None:
    folder.call("run", folder.plan("q.json", ASK[0]), "--run-id", "ended")

    assert folder.call("inflight").out == "no run is unfinished\n"
    assert folder.call("inflight", "--json").value == {"runs": [], "cannot_go_on": []}


def test_where_there_is_no_journal_none_is_made(folder: Folder) -> None:
    assert folder.call("inflight").code == 0
    assert not (folder.path / ".planloom").exists()


def test_a_run_that_is_not_on_record_is_an_error(folder: Folder) -> None:
    begun(folder, "r1")

    assert folder.call("inflight", "nobody").code == 6

from __future__ import annotations

from pathlib import Path

from cli.conftest import Folder
from planloom.cli.doctor import disk_finding, fsync_s


def findings(folder: Folder, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    ended = folder.call("doctor", "--json", *arguments)
    return ended.code, {finding["about"]: finding for finding in ended.value["findings"]}


def test_a_sound_installation_has_nothing_wrong(folder: Folder) -> None:
    ended = folder.call("doctor")

    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "nothing is wrong"


def test_it_finds_the_tools_and_names_them(folder: Folder) -> None:
    code, found = findings(folder)

    assert code == 0
    assert "t.echo" in found["tools"]["words"]
    assert found["settings"]["words"] == str(folder.path / "planloom.toml")


def test_tools_that_cannot_be_loaded_are_wrong_and_exit_with_7(folder: Folder) -> None:
    folder.write("tools.py", "import nothing_of_that_name\n")

    code, found = findings(folder)

    assert code == 7
    assert found["tools"]["verdict"] == "wrong"
    assert found["tools"]["remedy"]


def test_a_journal_that_is_none_is_wrong_and_exits_with_6(folder: Folder) -> None:
    folder.write("runs.db", "this is no journal " * 100)

    code, found = findings(folder, "--journal", "runs.db")

    assert code == 6
    assert found["journal"]["verdict"] == "wrong"


def test_it_says_how_many_runs_the_journal_has(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", {"id": "a", "tool": "t.echo"}))

    _, found = findings(folder, "--tools", "tools.py")

    assert found["journal"]["words"].endswith(".planloom/runs.db with 1 run")


def test_it_says_which_sandboxes_work_here_or_what_they_need(folder: Folder) -> None:
    _, found = findings(folder)

    for runtime in ("monty", "cpython"):
        told = found[f"sandbox {runtime}"]
        assert (told["verdict"] == "ok" and "works" in told["words"]) or "install" in told["remedy"]


def test_a_slow_disk_is_a_hint_and_says_where_to_go() -> None:
    slow, fast = disk_finding(Path("/net"), 0.2), disk_finding(Path("/ssd"), 0.001)

    assert (slow.verdict, slow.words) == ("hint", "fsync takes 200 ms in /net")
    assert "local disk" in slow.remedy
    assert (fast.verdict, fast.remedy) == ("ok", "")


def test_measuring_the_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    assert 0 < fsync_s(tmp_path) < 10
    assert list(tmp_path.iterdir()) == []

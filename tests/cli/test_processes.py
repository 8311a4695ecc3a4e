"""The program as a process: signals, pipes, terminals, and what tools print."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cli.conftest import Folder

pytestmark = pytest.mark.slow

PROGRAM = [sys.executable, "-m", "planloom.cli.main"]
CHAIN = (
    {"id": "counted", "tool": "t.count", "with": {"text": "a b"}},
    {"id": "slow", "tool": "t.wait", "needs": ["counted"], "with": {"seconds": 30}},
)
ONCE = (
    {"id": "counted", "tool": "t.count", "with": {"text": "a b"}},
    {"id": "mail", "tool": "t.wait_once", "needs": ["counted"], "with": {"seconds": 30}},
)
NOISY = {"id": "a", "tool": "t.noisy"}


def environment(**changes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PLANLOOM_JOURNAL"} | changes


@contextmanager
def running(folder: Folder, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=folder.path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], words: str) -> list[str]:
    """Return the lines of stderr up to the one with these words."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if words in line:
            return lines
    raise AssertionError(f"{words!r} never came: {lines}")


def wait_for_event(folder: Folder, run_id: str, is_it: Callable[[dict[str, object]], bool]) -> None:
    """Return once such an event is on record."""
    with running(folder, "events", run_id, "--follow", "--json") as follower:
        assert follower.stdout is not None
        for line in follower.stdout:
            if is_it(json.loads(line)):
                return
    raise AssertionError("it never came")


def test_the_first_ctrl_c_cancels_on_record_and_exits_with_130(folder: Folder) -> None:
    plan = folder.plan("p.json", *CHAIN)

    with running(folder, "run", plan, "--run-id", "r1", "--json") as process:
        read_until(process, "counted completed")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)

    assert process.returncode == 130
    assert json.loads(out)["status"] == "cancelled"
    assert "cancelled by Ctrl-C" in err
    assert err.splitlines()[-1] == "to run the rest: planloom resume --failed r1"
    assert folder.call("show", "r1", "--json").value["status"] == "cancelled"


def test_a_second_ctrl_c_ends_the_process_where_it_stands(folder: Folder) -> None:
    folder.write(
        "tools.py",
        (folder.path / "tools.py").read_text()
        + "\n@tool(name='t.deaf', effects='none')\nasync def deaf() -> None:\n"
        + "    for _ in range(300):\n        try:\n            await asyncio.sleep(0.1)\n"
        + "        except asyncio.CancelledError:\n            pass\n",
    )
    plan = folder.plan("p.json", CHAIN[0], {"id": "deaf", "tool": "t.deaf", "needs": ["counted"]})

    with running(folder, "run", plan, "--run-id", "r1") as process:
        read_until(process, "counted completed")
        process.send_signal(signal.SIGINT)
        read_until(process, "press Ctrl-C again")
        process.send_signal(signal.SIGINT)
        process.wait(timeout=1.0)

    assert process.returncode == 130


@pytest.mark.crash
def test_a19_a_killed_run_is_resumed_and_does_nothing_twice(folder: Folder) -> None:
    plan = folder.plan("p.json", CHAIN[0], {**CHAIN[1], "with": {"seconds": 1.5}})
    with running(folder, "run", plan, "--run-id", "r1") as process:
        told = read_until(process, "counted completed")
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)

    shown = folder.call("show", "r1")
    ended = folder.call("resume", "r1")

    assert told[0] == "run r1"
    assert shown.out.splitlines()[-1] == "nobody drives it; to go on: planloom resume r1"
    assert (ended.code, ended.out) == (0, "waited\n")
    assert (folder.path / "calls.log").read_text() == "count\n"
    assert folder.call("replay", "r1").code == 0


@pytest.mark.crash
def test_a_step_that_must_not_run_twice_waits_for_a_person_after_a_kill(folder: Folder) -> None:
    plan = folder.plan("p.json", *ONCE)
    with running(folder, "run", plan, "--run-id", "r1") as process:
        read_until(process, "counted completed")
        wait_for_event(folder, "r1", lambda event: (event["event"], event.get("step")) == ("step_dispatched", "mail"))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)

    blocked = folder.call("resume", "r1")
    resolved = folder.call("resolve", "r1", "mail", "--output", '"sent"', "--by", "ann")
    ended = folder.call("resume", "r1")

    assert blocked.code == 4
    assert "to go on: planloom resolve r1 mail --output JSON | --retry | --fail" in blocked.err.splitlines()
    assert resolved.code == 0
    assert (ended.code, ended.out) == (0, "sent\n")
    assert (folder.path / "calls.log").read_text().count("once") <= 1


def test_a_run_is_cancelled_from_another_process(folder: Folder) -> None:
    plan = folder.plan("p.json", *CHAIN)
    with running(folder, "run", plan, "--run-id", "r1") as process:
        read_until(process, "counted completed")

        told = folder.call("cancel", "r1", "--by", "ann", "--json").value
        _, err = process.communicate(timeout=10)

    assert (told["driven"], told["next"]) == (True, None)
    assert process.returncode == 130
    assert "cancelled by ann" in err


@pytest.mark.slow
def test_a_run_is_paused_from_another_process_and_goes_on_in_a_third(folder: Folder) -> None:
    last = {"id": "last", "tool": "t.count", "needs": ["slow"], "with": {"text": "a"}}
    plan = folder.plan("p.json", CHAIN[0], CHAIN[1] | {"with": {"seconds": 2}}, last)
    with running(folder, "run", plan, "--run-id", "r1") as process:
        read_until(process, "counted completed")

        told = folder.call("pause", "r1", "--by", "ann", "--json").value
        _, err = process.communicate(timeout=10)

    assert told["driven"] is True
    assert process.returncode == 4
    assert "paused by ann" in err
    assert "slow completed" in err
    assert "last" not in err
    assert folder.call("resume", "r1").code == 0


def test_a_run_that_somebody_drives_cannot_be_resumed_beside_it(folder: Folder) -> None:
    plan = folder.plan("p.json", *CHAIN)
    with running(folder, "run", plan, "--run-id", "r1") as process:
        read_until(process, "counted completed")

        ended = folder.call("resume", "r1")
        shown = folder.call("show", "r1", "--json").value

    assert ended.code == 6
    assert "error[journal.busy]" in ended.err
    assert shown["interrupted"] is False


def test_whatever_a_tool_prints_stdout_holds_the_json_and_nothing_else(folder: Folder) -> None:
    folder.write("tools.py", "print('printed while loading')\n" + (folder.path / "tools.py").read_text())
    plan = folder.plan("p.json", NOISY)

    with running(folder, "run", plan, "--json") as process:
        out, err = process.communicate(timeout=20)

    assert json.loads(out)["result"] == "quiet"
    for words in ("printed while loading", "printed by a tool", "written by a tool", "printed by a child"):
        assert words in err


@pytest.mark.parametrize("command", [["check"], ["doctor"]])
def test_loading_tools_prints_nothing_into_the_answers_of_other_commands(folder: Folder, command: list[str]) -> None:
    folder.write("tools.py", "print('printed while loading')\n" + (folder.path / "tools.py").read_text())
    plan = [folder.plan("p.json", NOISY)] if command == ["check"] else []

    with running(folder, *command, *plan, "--json") as process:
        out, _ = process.communicate(timeout=20)

    assert json.loads(out)["ok"] is True


@pytest.mark.parametrize("broken", ["stdout", "stderr", "both"])
def test_a_reader_that_goes_away_does_not_end_a_run(folder: Folder, broken: str) -> None:
    plan = folder.plan("p.json", NOISY, {"id": "last", "tool": "t.echo", "needs": ["a"]})
    reader, writer = os.pipe()
    os.close(reader)
    streams = {name: writer if broken in (name, "both") else subprocess.PIPE for name in ("stdout", "stderr")}

    done = subprocess.run(
        [*PROGRAM, "run", plan, "--run-id", "r1"], cwd=folder.path, env=environment(), check=False, text=True, **streams
    )

    os.close(writer)
    assert folder.call("show", "r1", "--json").value["status"] == "success"
    assert done.returncode == (0 if broken == "stderr" else 141)
    assert "Traceback" not in (done.stderr or "")
    assert "Exception ignored" not in (done.stderr or "")


def test_head_ends_a_long_answer_without_a_word(folder: Folder) -> None:
    steps = [{"id": f"s{number}", "tool": "t.echo"} for number in range(300)]
    folder.call("run", folder.plan("p.json", *steps), "--run-id", "r1", "-q")
    program = " ".join(PROGRAM)

    done = subprocess.run(
        ["bash", "-c", f"{program} events r1 | head -2; echo ${{PIPESTATUS[0]}}"],
        cwd=folder.path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 3
    assert done.stdout.splitlines()[2] in ("0", "141")


def test_a_terminal_without_utf_8_gets_ascii_and_no_error(folder: Folder) -> None:
    plan = folder.plan("p.json", {"id": "grün", "tool": "t.echo", "with": {"value": "${{ inputs.text }}"}})
    ascii_only = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="")

    def call(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*PROGRAM, *arguments], cwd=folder.path, env=ascii_only, capture_output=True, check=True)

    ran = call("run", plan, "--run-id", "r1", "--input", "text=schön ✓", "--json")
    shown = call("show", "r1")
    drawn = call("graph", "--run", "r1")
    picture = call("graph", "--run", "r1", "--format", "svg")

    assert json.loads(ran.stdout)["result"] == "schön ✓"
    assert all(output.isascii() for output in (ran.stdout, ran.stderr, shown.stdout, drawn.stdout, picture.stdout))
    assert b"  + gr\\xfcn (tool t.echo) completed" in drawn.stdout
    assert b"gr&#252;n" in picture.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal_progress_is_a_table_and_the_result_stays_readable(folder: Folder) -> None:
    pty = pytest.importorskip("pty", reason="not installed: pty")
    pytest.importorskip("rich", reason="not installed: rich")
    plan = folder.plan("p.json", {"id": "a", "tool": "t.wait", "with": {"seconds": 0.3}}, NOISY | {"id": "noisy"})
    outer, inner = pty.openpty()

    done = subprocess.run(
        [*PROGRAM, "run", plan, "--run-id", "r1"],
        cwd=folder.path,
        env=environment(TERM="xterm", COLUMNS="100", LINES="40"),
        stdin=inner,
        stdout=subprocess.PIPE,
        stderr=inner,
        check=True,
    )

    os.close(inner)
    shown = os.read(outer, 1_000_000).decode()
    os.close(outer)
    assert json.loads(done.stdout) == {"a": "waited", "noisy": "quiet"}
    assert shown.startswith("run r1")
    assert "2 steps: 2 completed" in shown
    assert "printed by a tool" in shown
    assert "success: 2 of 2 steps completed" in shown

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest

from cli.conftest import Folder
from planloom import masking
from planloom.cli.main import _COMMANDS, main


def test_help_names_every_command_and_every_exit_code(folder: Folder) -> None:
    ended = folder.call("--help")

    assert ended.code == 0
    assert all(f"\n  {name} " in ended.out for name in _COMMANDS)
    assert all(f"\n    {code} " in ended.out for code in (0, 1, 2, 3, 4, 5, 6, 7, 130))


@pytest.mark.slow
def test_the_short_help_of_each_command_is_the_first_line_of_its_own() -> None:
    context = click.Context(main)

    for name, (_, _, about) in _COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert (command.help or "").splitlines()[0] == about


@pytest.mark.slow
def test_nothing_heavy_is_imported_to_show_the_help() -> None:
    code = (
        "import planloom.cli.main, sys; print(*(set(sys.modules) & {'pydantic', 'asyncio', 'sqlite3', 'rich', 'yaml'}))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def processor_s() -> float:
    """Return the processor time of ended children; unlike the wall clock it does not count what runs beside them."""
    used = os.times()
    return used.children_user + used.children_system


@pytest.mark.timing
def test_help_takes_less_than_150_ms() -> None:
    times = []
    for _ in range(5):
        before = processor_s()
        subprocess.run([sys.executable, "-m", "planloom.cli.main", "--help"], stdout=subprocess.DEVNULL, check=True)
        times.append(processor_s() - before)

    assert min(times) < 0.15


def test_an_unknown_command_gets_a_suggestion_and_code_2(folder: Folder) -> None:
    ended = folder.call("lits")

    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "error[usage]: there is no command 'lits'; did you mean 'list'?\n  try: planloom --help\n"


def test_an_error_is_one_sentence_and_a_remedy_and_never_a_traceback(folder: Folder) -> None:
    ended = folder.call("show", "r9")

    assert ended.code == 6
    assert ended.err == (
        "error[journal.no_run]: there is no run 'r9': .planloom/runs.db does not exist\n"
        "  try: go to the folder where it was started, or give --journal PATH\n"
    )


def test_debug_adds_the_traceback(folder: Folder) -> None:
    assert "Traceback (most recent call last)" in folder.call("show", "r9", "--debug").err


def test_a_traceback_holds_no_secret(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://ann:hunter2-and-more@db")
    folder.write("planloom.toml", 'tools = ["broken.py"]\nsecrets = ["DATABASE_URL"]\n')
    folder.write("broken.py", "import os\nraise RuntimeError(f'no answer from {os.environ[\"DATABASE_URL\"]}')\n")

    with masking.forgetting():
        ended = folder.call("check", folder.plan("p.json", {"id": "a", "tool": "t"}), "--debug")

    assert "RuntimeError: no answer from ***" in ended.err
    assert "hunter2" not in ended.err


def test_with_json_an_error_is_json_too(folder: Folder) -> None:
    ended = folder.call("show", "r9", "--json")

    assert ended.value["error"]["code"] == "journal.no_run"
    assert ended.value["exit_code"] == ended.code == 6


def test_a_usage_error_with_json_is_json_too(folder: Folder) -> None:
    ended = folder.call("run", "--json")

    assert ended.value["error"]["code"] == "usage"
    assert ended.value["exit_code"] == ended.code == 2


def test_shared_options_mean_the_same_before_and_after_the_command(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", {"id": "a", "tool": "t.echo"}), "--journal", "here.db", "--run-id", "r1")

    before = folder.call("--json", "--journal", "here.db", "list")
    after = folder.call("list", "--json", "--journal", "here.db")

    assert before.out == after.out
    assert [row["run_id"] for row in json.loads(after.out)] == ["r1"]


def test_the_journal_can_come_from_the_environment(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANLOOM_JOURNAL", "env.db")

    folder.call("run", folder.plan("p.json", {"id": "a", "tool": "t.echo"}))

    assert (folder.path / "env.db").is_file()
    assert not (folder.path / ".planloom").exists()

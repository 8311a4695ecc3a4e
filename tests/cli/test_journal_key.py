"""A project whose record has a key: found where the settings say, and never told."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cli.conftest import Folder
from planloom import Engine, Settings
from planloom.errors import ConfigError
from planloom.runtime.settings import read_settings

KEY = "6b" * 32
PLAN = "planloom: 1\nname: p\nsteps:\n  - {id: a, tool: t.echo}\n"


def with_settings(folder: Folder, line: str) -> None:
    settings = folder.path / "planloom.toml"
    folder.write("planloom.toml", f"{line}\n{settings.read_text()}")
    folder.write("plan.yaml", PLAN)


def forge(folder: Folder) -> None:
    """Do as somebody who may write to the file and has the code, and not the key."""
    with sqlite3.connect(folder.path / ".planloom/runs.db") as journal:
        journal.execute("UPDATE events SET body = replace(body, '\"x\"', '\"y\"')")


def test_a_key_from_the_environment_is_used_for_every_command(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    with_settings(folder, 'journal_key_env = "RECORD_KEY"')
    monkeypatch.setenv("RECORD_KEY", KEY)
    assert folder.call("run", "plan.yaml", "--run-id", "r1").code == 0
    assert folder.call("show", "r1").code == 0

    monkeypatch.setenv("RECORD_KEY", "0" * 64)
    ended = folder.call("show", "r1")

    assert ended.code == 6
    assert ended.err.startswith("error[journal.key]: run 'r1' was not written with the key that is given")
    assert KEY not in ended.err


def test_a_key_in_a_file_is_found_beside_the_settings(folder: Folder) -> None:
    with_settings(folder, 'journal_key_file = "record.key"')
    folder.write("record.key", KEY + "\n")

    assert read_settings(folder.path / "planloom.toml").journal_key() == KEY.encode()
    assert folder.call("run", "plan.yaml", "--run-id", "r1").code == 0
    folder.write("record.key", "0" * 64)
    assert folder.call("show", "r1").code == 6


def test_a_forged_record_is_refused_and_the_other_runs_go_on(folder: Folder) -> None:
    with_settings(folder, 'journal_key_file = "record.key"')
    folder.write("record.key", KEY)
    folder.call("run", "plan.yaml", "--run-id", "r1")
    forge(folder)
    folder.call("run", "plan.yaml", "--run-id", "r2")

    forged = [folder.call(command, "r1") for command in ("show", "replay", "resume")]

    assert [ended.code for ended in forged] == [6, 6, 6]
    assert all(ended.err.startswith("error[journal.damaged]: run 'r1' is damaged at event") for ended in forged)
    assert folder.call("show", "r2").code == 0


@pytest.mark.parametrize("setting", ["journal_key_env", "journal_key_file"])
def test_a_key_that_is_not_where_the_settings_say_stops_before_anything_is_written(
    folder: Folder, setting: str
) -> None:
    with_settings(folder, f'{setting} = "NOWHERE"')

    ended = folder.call("run", "plan.yaml")

    assert (ended.code, "NOWHERE" in ended.err) == (7, True)
    assert not (folder.path / ".planloom/runs.db").exists()


def test_what_needs_no_journal_needs_no_key(folder: Folder) -> None:
    with_settings(folder, 'journal_key_env = "NOWHERE"')

    assert folder.call("check", "plan.yaml").code == 0


def test_an_engine_takes_the_key_from_its_settings_and_shows_it_nowhere(tmp_path: Path) -> None:
    (tmp_path / "record.key").write_text(KEY)
    engine = Engine(tmp_path / "runs.db", tools=(), settings=Settings(journal_key_file=str(tmp_path / "record.key")))

    seen = f"{engine!r} {vars(engine)!r} {engine.journal!r} {vars(engine.journal)!r}"

    assert KEY not in seen


def test_two_places_for_one_key_and_a_key_too_short_are_errors(tmp_path: Path) -> None:
    (tmp_path / "planloom.toml").write_text('journal_key_env = "A"\njournal_key_file = "b"\n')
    (tmp_path / "short").write_text("short")

    with pytest.raises(ConfigError, match="take one out"):
        read_settings(tmp_path / "planloom.toml")
    with pytest.raises(ConfigError, match="16 to 64 bytes") as caught:
        Engine(tmp_path / "runs.db", tools=(), settings=Settings(journal_key_file=str(tmp_path / "short")))
    assert caught.value.remedy

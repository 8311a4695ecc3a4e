"""The examples run offline, from anywhere, and assert their own outcome."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
NUMBERED = sorted(EXAMPLES.glob("[0-9][0-9]_*.py"))


def run(folder: Path, *command: str | Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=os.environ | {"NO_COLOR": "1"} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", NUMBERED, ids=lambda path: path.stem)
def test_a_numbered_example_reaches_the_outcome_it_asserts(script: Path, tmp_path: Path) -> None:
    shown = run(tmp_path, script)

    assert shown.strip()


def test_the_numbers_have_no_gaps() -> None:
    assert [int(path.stem[:2]) for path in NUMBERED] == list(range(1, len(NUMBERED) + 1))


@pytest.mark.slow
def test_the_folder_map_measures_what_can_be_read(tmp_path: Path) -> None:
    run(tmp_path, EXAMPLES / "folder_map/run.py")


@pytest.mark.slow
def test_a_plan_made_once_saves_money_over_a_hundred_receipts(tmp_path: Path) -> None:
    shown = run(tmp_path, EXAMPLES / "receipts_batch/run.py")

    saved = re.search(r"^saved: ([\d.]+)%", shown, re.MULTILINE)
    assert saved is not None, shown
    assert float(saved[1]) > 80


@pytest.mark.slow
def test_every_receipt_comes_out_as_a_person_read_it(tmp_path: Path) -> None:
    expected = json.loads((EXAMPLES / "receipts/expected.json").read_text(encoding="utf-8"))

    run(tmp_path, EXAMPLES / "receipts/run_all.py", "--out", tmp_path)

    outcomes = json.loads((tmp_path / "outcomes.json").read_text(encoding="utf-8"))
    assert outcomes == expected
    assert saved(tmp_path / "receipts.db") == {
        (entry["merchant"], entry["total_minor"]) for entry in expected.values() if entry["ok"]
    }


@pytest.mark.slow
def test_receipts_handed_in_twice_are_kept_once(tmp_path: Path) -> None:
    run(tmp_path, EXAMPLES / "receipts/run_all.py", "--out", tmp_path)
    first = saved(tmp_path / "receipts.db")

    run(tmp_path, EXAMPLES / "receipts/run_all.py", "--out", tmp_path)

    assert saved(tmp_path / "receipts.db") == first


def saved(database: Path) -> set[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT merchant, total_minor FROM receipts").fetchall()
    assert len(rows) == len(set(rows))
    return set(rows)


@pytest.mark.slow
def test_the_english_plan_leaves_one_mail_per_contact_however_often_it_runs(tmp_path: Path) -> None:
    for _ in range(2):
        run(tmp_path, "-m", "planloom", "run", EXAMPLES / "contacts/plan.txt", CONTACTS_OUTBOX=str(tmp_path / "outbox"))

    mails = [message_from_bytes(path.read_bytes()) for path in (tmp_path / "outbox").iterdir()]
    assert len(mails) == len({mail["To"] for mail in mails}) == 8
    assert all("Hello World!" in mail.get_payload() for mail in mails)


@pytest.mark.slow
def test_a_code_base_is_asked_within_a_budget_and_every_figure_told(tmp_path: Path) -> None:
    told = json.loads(run(tmp_path, EXAMPLES / "codebase_qa/run.py", "--out", tmp_path, "--json"))

    assert len(told["questions"]) == 8
    assert all(0 < tokens < 2 * told["tokens"] for row in told["questions"] for tokens in row["tokens"].values())
    assert all(0 < chosen["tokens"] <= told["budget"] for chosen in told["chosen"].values())
    stats = told["gasa_stats"]
    assert (stats["strategy"], stats["backend"]) == ("prompt_composer", "packing")
    assert 0 < stats["tokens_after"] <= told["budget"] < stats["tokens_before"]
    assert told["chosen"]["in turns"]["missing"] == []
    assert told["answer"].splitlines() == [
        "planloom/journal/ownership.py has def claim(…",
        "planloom/journal/sqlite.py has async def take(…",
    ]
    assert (tmp_path / "mask.svg").read_text(encoding="utf-8").startswith("<svg")

"""The documents are true: drawn pages are fresh, links lead somewhere, and every block of code in them runs.

Rule 1: the blocks of one page run in order in one empty folder. A block whose first line is a comment naming a file
(`# plan.yaml`) is that file; ```python is run; ```sh is run by bash. Blocks that say ```text are shown only.
Rule 2: nothing here reaches a network; `make` and `pip` lines are left to `.ci/run`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import typing
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from planloom import errors
from planloom.cli.exits import Exit
from planloom.cli.main import main
from planloom.core import events
from planloom.runtime.settings import Settings
from scripts import reference
from scripts.reference.__main__ import FOLDER, stale

ROOT = Path(reference.__file__).resolve().parent.parent.parent
RUNNING = sorted([ROOT / "README.md", *(ROOT / "docs/guides").glob("*.md"), *(ROOT / "docs/tutorials").glob("*.md")])
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "examples/README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"^# (?P<name>[\w./-]+\.(?:py|yaml|toml|json|txt|csv))\n")
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)#\s]+)(?:#[^)]*)?\)")
LEFT_TO_CI = re.compile(r"^(make|pip|git) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(match["language"], match["text"], text.count("\n", 0, match.start()) + 2)
        for match in FENCE.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_every_block_of_the_page_runs(page: Path, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": "", "NO_COLOR": "1"}
    for block in blocks(page):
        named = FILE_NAME.match(block.text)
        if named:
            file = tmp_path / named["name"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
            continue
        if block.language not in ("python", "sh") or (block.language == "sh" and LEFT_TO_CI.search(block.text)):
            continue
        command = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]

        done = subprocess.run(
            [*command, block.text],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        shown = f"{name_of(page)}, line {block.line}:\n{block.text}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, shown


def test_the_drawn_pages_are_fresh() -> None:
    assert stale() == [], "run `make docs`"


def drawn(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def test_every_error_is_on_its_page() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PlanloomError)
    ]

    missing = [kind.__name__ for kind in kinds if f"`{kind.code}` | `{kind.__name__}`" not in drawn("errors.md")]

    assert missing == ["PlanloomError"]


def test_every_event_is_on_its_page() -> None:
    names = [kind.__name__ for kind in (*typing.get_args(events.Fact), *typing.get_args(events.Decision))]

    assert [name for name in names if f"\n### {name}\n" not in drawn("events.md")] == []


def test_every_command_is_on_its_page_and_has_help() -> None:
    assert isinstance(main, click.Group)
    context = click.Context(main)
    commands = [main.get_command(context, name) for name in main.list_commands(context)]

    assert [command.name for command in commands if command and not (command.help or "").strip()] == []
    assert [
        command.name for command in commands if command and f"## planloom {command.name}\n" not in drawn("cli.md")
    ] == []


def test_every_exit_code_is_on_the_page_of_commands() -> None:
    codes = [code for code in Exit if code not in (Exit.BUG, Exit.BROKEN_PIPE)]

    assert [code for code in codes if not re.search(rf"^ +{int(code)} +\w", drawn("cli.md"), re.MULTILINE)] == []


def test_every_setting_is_on_its_page_with_its_meaning() -> None:
    table = drawn("settings.md").partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", table, re.MULTILINE))

    assert [name for name in Settings.model_fields if not rows.get(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [match["target"] for match in LINK.finditer(text) if "://" not in match["target"]]

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for match in LINK.finditer(page.read_text(encoding="utf-8")):
            target = (page.parent / match["target"]).resolve()
            waiting += sorted(target.glob("*.md")) if target.is_dir() else [target] if target.exists() else []

    assert [name_of(page) for page in PAGES if page not in reached] == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200

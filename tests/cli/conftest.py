"""A folder to work in, with tools, and the program in this process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from planloom.cli.main import main
from planloom.tools import registry

TOOLS = '''
import asyncio
import os
import subprocess
import time

from planloom import tool

@tool(name="t.echo", effects="none")
def echo(value: str = "x") -> str:
    """Return the value."""
    return value

@tool(name="t.count", effects="none")
def count(text: str) -> int:
    """Return how many words there are, and leave a mark."""
    with open("calls.log", "a") as log:
        log.write("count\\\\n")
    return len(text.split())

@tool(name="t.sum", effects="none")
def total(numbers: list[int]) -> int:
    """Return the sum."""
    return sum(numbers)

@tool(name="t.fail_until_there", effects="none")
def fail_until_there(path: str) -> str:
    """Fail while there is no such file."""
    if not os.path.exists(path):
        raise KeyError("kaboom")
    return "there"

@tool(name="t.wait", effects="none")
async def wait(seconds: float) -> str:
    """Wait, and return."""
    await asyncio.sleep(seconds)
    return "waited"

@tool(name="t.wait_once")
def wait_once(seconds: float) -> str:
    """Wait, with an effect that must not happen twice."""
    with open("calls.log", "a") as log:
        log.write("once\\\\n")
    time.sleep(seconds)
    return "done"

@tool(name="t.noisy", effects="none")
def noisy() -> str:
    """Print in every way there is."""
    print("printed by a tool")
    os.write(1, b"written by a tool\\\\n")
    subprocess.run(["echo", "printed by a child"], check=True)
    return "quiet"
'''.replace("\\\\n", "\\n")


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


class Folder:
    """A working folder and the commands called in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> Path:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text, encoding="utf-8")
        return self.path / name

    def plan(self, name: str, *steps: dict[str, Any], **fields: Any) -> str:
        document = {"planloom": 1, "name": name.partition(".")[0], "steps": list(steps), **fields}
        self.write(name, json.dumps(document))
        return name

    def call(self, *arguments: str, input: str | None = None) -> Ended:
        done = CliRunner().invoke(main, [*arguments], input=input, prog_name="planloom")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Ended(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLANLOOM_JOURNAL", raising=False)
    # Decorated tools stay for as long as the process: each test is a process of its own to them.
    monkeypatch.setattr(registry, "_DEFAULT", registry.ToolRegistry())
    monkeypatch.setattr(sys, "path", [*sys.path])
    made = Folder(tmp_path)
    made.write("tools.py", TOOLS)
    made.write("planloom.toml", 'tools = ["tools.py"]\n')
    return made

"""The rooms depend downwards only, and the heart stays pure; the contracts are in pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Where an exception of any class may be caught for good, and why there.
CATCHING = {
    "executors/attempt.py": "a step's bug fails that step and not the engine",
    "executors/classify.py": "reading an exception that a tool made must not break what classifies it",
    "sandbox/inside.py": "a program may raise whatever it likes, and what it raised is its answer",
    "blocking.py": "carried out of the thread, and raised where it is waited for",
    "observe/trace.py": "a tracer raises what it likes; its run is told no further, and goes on",
    "observe/heard.py": "an instrument raises what it likes; its run is not measured, and goes on",
    "executors/threads.py": "carried out of the thread to attempt.py, which classifies it",
    "runtime/driver.py": "a bug in the heart ends that run and does not leave it hanging",
    "tools/mcp_session.py": "a server's transport raises what it likes; whoever opens it or calls is told",
    "transport/hearing.py": "a listener's bug is its own, and must not keep others from hearing",
    "transport/slots.py": "a slot is lent and given back whatever a watcher makes of it",
    "verify/closed.py": "whatever a validator or a judge raises is a reason against the answer, and no pass",
    "testing/sweep/calls.py": "carried out of a tool's thread, and raised where it is waited for",
    "testing/sweep/everywhere.py": "whatever breaks an engine after a crash is what a sweep looks for",
    "runtime/cluster/hearts.py": "a bug that one run of a cluster brings out must not stop the others",
    "cli/main.py": "the last stop: a person gets a sentence, with --debug the traceback",
}
# Read nowhere but where time, chance and waiting belong.
CLOCKS = {"asyncio", "time", "random", "os", "socket", "threading", "logging", "sqlite3"}


@pytest.mark.slow
def test_imports_keep_to_the_contracts(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_has_a_place_among_the_layers(root: Path) -> None:
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    placed = {name.strip() for layer in layers for name in layer.split("|")}

    rooms = {path.stem for path in (root / "src/planloom").iterdir() if path.name != "__pycache__"}

    assert rooms - {"__init__", "__main__", "py"} - placed - {"py.typed"} == set()


def test_exceptions_nobody_knows_are_caught_in_known_places_only(root: Path) -> None:
    source = root / "src/planloom"

    found = {
        str(path.relative_to(source))
        for path in sorted(source.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and catches_everything(node)
    }

    assert found - CATCHING.keys() == set()


def catches_everything(handler: ast.ExceptHandler) -> bool:
    names = {ast.unparse(node) for node in ast.walk(handler.type)} if handler.type is not None else {"Exception"}
    return bool(names & {"Exception", "BaseException"}) and not _raises_again(handler)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise)


def test_the_heart_never_asks_for_the_time_or_for_chance(root: Path) -> None:
    found = [
        f"{path.relative_to(root)} imports {name}"
        for room in ("plan", "core")
        for path in sorted((root / "src/planloom" / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in imported(node)
        if name.partition(".")[0] in CLOCKS
    ]

    assert found == []


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        return [node.module]
    return []

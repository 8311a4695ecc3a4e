"""What documents show of a cluster works: blocks that say ```bash, on real servers.

Rule 1: the blocks of a page run in order, in one folder, after all its files are there. A block whose first line says
"in a … terminal" goes on beside the others until the end.
Rule 2: the addresses of the page stand for those of the test's servers.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from planloom.guardian import Guardian
from tests.cluster.servers import Nats, until
from tests.test_docs import FILE_NAME, ROOT, blocks

pytestmark = pytest.mark.slow

TERMINAL = re.compile(r"^# in a .*terminal.*\n")
READY = ("is ready", "worker ")
"""What a program that goes on says once it works."""


class Beside:
    """A program in a terminal of its own."""

    def __init__(self, text: str, folder: Path, environment: dict[str, str], number: int) -> None:
        self._said = folder / f"terminal-{number}.log"
        with self._said.open("wb") as out:
            self._process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", f"exec {text.strip()}"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def works(self) -> bool:
        said = self._said.read_text()
        assert self._process.poll() is None, said
        return any(words in said for words in READY)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def test_the_tutorial_ends_on_a_cluster(tmp_path: Path, postgres: str, nats: Nats) -> None:
    page = ROOT / "docs/tutorials/notebook_to_cluster.md"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    beside: list[Beside] = []
    with ExitStack() as ending:
        guardian = Guardian()
        ending.callback(guardian.close)
        for block in blocks(page):
            text = block.text.replace("postgresql:///planloom", postgres).replace("nats://127.0.0.1:4222", nats.url)
            named, terminal = FILE_NAME.match(text), TERMINAL.match(text)
            if named:
                (tmp_path / named["name"]).write_text(text)
            elif block.language == "bash" and terminal:
                one = Beside(text[terminal.end() :], tmp_path, environment, len(beside))
                ending.callback(one.kill)
                guardian.watch(one.pid)
                until(one.works, what=text)
                beside.append(one)
            elif block.language == "bash":
                # Other tests have workers, too: the page may kill none of theirs.
                text = text.replace("$(pgrep -f 'planloom worke[r]' | head -1)", str(beside[1].pid))
                command = ["bash", "-euo", "pipefail", "-c", text]
                done = subprocess.run(
                    command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
                )
                assert done.returncode == 0, f"line {block.line}:\n{text}\n{done.stdout}{done.stderr}"

    assert len(beside) == 3

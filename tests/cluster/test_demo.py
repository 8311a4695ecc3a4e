"""The demo of a cluster works, from its first line to its last, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.servers import nats_program

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_kills_a_part_of_each_kind_and_ends_well(tmp_path: Path, postgres_server: object) -> None:
    nats_program()

    done = subprocess.run(
        [sys.executable, "-m", "examples.cluster.demo", "--pages", "300"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("killed .*; started again", done.stdout)) == 4
    assert "LET THROUGH" not in done.stdout
    assert "which is right" in done.stdout
    assert done.stdout.count("$ planloom verify") == 2
    assert list(tmp_path.iterdir()) == []

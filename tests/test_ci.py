"""In continuous integration a test skipped for want of a program is a failed test."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

SKIPPING = """
import pytest

def test_that_needs_a_program():
    pytest.skip("{reason}")
"""


def outcome(root: Path, folder: Path, reason: str, *, ci: str) -> str:
    (folder / "conftest.py").write_text((root / "tests/conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_it.py").write_text(SKIPPING.format(reason=reason), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "test_it.py")],
        cwd=folder,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "ci", "expected"),
    [
        ("not installed: nats-server", "true", "1 failed"),
        ("not installed: nats-server", "", "1 skipped"),
        ("only on Windows", "true", "1 skipped"),
    ],
)
def test_a_missing_program_fails_in_ci_only(root: Path, tmp_path: Path, reason: str, ci: str, expected: str) -> None:
    assert outcome(root, tmp_path, reason, ci=ci).startswith(expected)

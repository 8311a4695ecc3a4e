"""The text of `inside.py`, as the interpreter in the sandbox is given it; it is never imported here."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def runner_text() -> str:
    return Path(__file__).with_name("inside.py").read_text(encoding="utf-8")

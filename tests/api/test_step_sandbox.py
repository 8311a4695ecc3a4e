"""StepExecutor: code nobody has read. The sandbox itself is tried in tests/sandbox."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from planloom.api.steps import StepExecutor


def run(code: str, **options: Any) -> Any:
    return asyncio.run(StepExecutor({}).execute_sandboxed(code, **options))


def test_s4_23_code_gives_what_it_returns_and_prints() -> None:
    result = run("print('seen')\nreturn [1, 2]")

    assert result.error is None
    assert result.result == [1, 2]
    assert result.output == "seen\n"


def test_s4_23_code_has_no_network() -> None:
    result = run("import socket\nreturn socket.socket()")

    assert result.error is not None
    assert result.result is None


def test_s4_23_code_has_a_hundred_megabytes_and_half_a_core() -> None:
    result = run("return len('x' * 200_000_000)")

    assert result.error is not None
    assert result.enforced["memory_mb"].startswith("100")
    assert result.enforced["cpu_percent"].startswith("50")


@pytest.mark.slow
def test_s4_23_code_that_never_ends_is_killed() -> None:
    result = run("while True: pass", timeout=0.3)

    assert result.error is not None
    assert result.execution_time < 1

"""Tools that raise what no tool should: the step fails with a precise kind, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelledError
from typing import Any

import pytest

from tests.executors.tools import beside, made


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class FightingError(Exception):
    """An exception whose attributes are not what their names say."""

    usage = "plenty"
    cost_usd = "free"
    retry_after = 10**400

    @property
    def response(self) -> Any:
        raise RuntimeError("no response for you")


class StrangeHeadersError(Exception):
    headers = dict  # its `get` takes an object first


def raising(error: Any) -> Callable[[], None]:
    def bad() -> None:
        raise error

    return bad


def raising_async(error: Any) -> Callable[[], Any]:
    async def bad() -> None:
        raise error

    return bad


RAISED = [
    (ValueError("kaboom"), "error", "kaboom"),
    (SystemExit(3), "refused", "sys.exit(3)"),
    (KeyboardInterrupt(), "refused", "KeyboardInterrupt"),
    (TypeError("no"), "refused", "TypeError"),
    (RecursionError("deep"), "error", "deep"),
    (MemoryError(), "error", "MemoryError"),
    (ExceptionGroup("several", [ValueError("one"), TypeError("two")]), "error", "several"),
    (BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError("x")]), "error", "several"),
    (GeneratorExit(), "error", "GeneratorExit"),
    (asyncio.CancelledError("not for you to say"), "cancelled", ""),
    (FutureCancelledError(), "error", ""),
    (ValueError("half a pair: \ud800"), "error", "half a pair"),
    (UnreadableError(), "error", "UnreadableError"),
    (FightingError("x"), "error", "FightingError"),
    (StrangeHeadersError("x"), "error", "StrangeHeadersError"),
    (ValueError("long " * 100_000), "error", "long"),
]


@pytest.mark.parametrize(("error", "kind", "text"), RAISED, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("way", [raising, raising_async])
def test_a18_whatever_a_tool_raises_fails_its_step_and_no_other(error: Any, kind: str, text: str, way: Any) -> None:
    result = beside(made(way(error)))

    assert result.step("bad").error_kind == kind
    assert text in (result.step("bad").error or "")
    assert len(result.step("bad").error or "") < 5_000


def test_a18_stop_iteration_is_an_error_like_any_other() -> None:
    for way in (raising, raising_async):
        result = beside(made(way(StopIteration("end"))))

        assert "StopIteration" in (result.step("bad").error or "")
        assert result.step("bad").error_kind == "error"


def test_endless_recursion_fails_the_step() -> None:
    def bad() -> Any:
        return bad()

    result = beside(made(bad))

    assert "RecursionError" in (result.step("bad").error or "")


def test_a_tool_that_cancels_the_task_it_runs_in_fails_like_any_other() -> None:
    async def bad() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    result = beside(made(bad))

    assert result.step("bad").error_kind == "cancelled"

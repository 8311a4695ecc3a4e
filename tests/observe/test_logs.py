"""Log lines: one JSON object each, where it was logged, nothing that anybody said, and no secret."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from planloom import Engine, RunResult, ToolContext, masking
from planloom.core.chat import ToolCall
from planloom.core.commands import RunStep
from planloom.core.result import StepOutcome
from planloom.errors import ConfigError
from planloom.executors.attempt import Attempts
from planloom.observe import logs
from planloom.ports import AttemptContext
from planloom.testing.fakes import fake_tool
from planloom.testing.models import ScriptedModel
from planloom.tools.context import under_way
from tests.executors.attempts import Books, asking

NAMES = ("planloom", "elsewhere")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Return what log lines go to, and leave the loggers as they were."""
    before = [
        (logger, logger.level, logger.propagate, list(logger.handlers)) for logger in map(logging.getLogger, NAMES)
    ]
    yield io.StringIO()
    for logger, level, propagate, handlers in before:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def run(*steps: dict[str, Any], **options: Any) -> RunResult:
    async def main() -> RunResult:
        async with asyncio.timeout(20), Engine(**options) as engine:
            return await engine.run({"planloom": 1, "name": "p", "steps": list(steps)}, run_id="r")

    return asyncio.run(main())


def test_a_line_says_which_run_step_and_attempt_it_is_about(stream: io.StringIO) -> None:
    logs.configure(format="json", level="INFO", stream=stream)
    both = asyncio.Event()
    waiting: list[str] = []

    async def meet(who: str) -> None:
        waiting.append(who)
        if len(waiting) == 2:
            both.set()
        await both.wait()
        logging.getLogger("planloom.mine").info("%s is there", who)

    def in_a_thread(context: ToolContext) -> None:
        logging.getLogger("planloom.mine").info("in %s", threading.current_thread() is threading.main_thread())
        context.logger.info("by its own logger")

    steps = [
        {"id": "a", "tool": "meet", "with": {"who": "a"}},
        {"id": "b", "tool": "meet", "with": {"who": "b"}},
        {"id": "c", "tool": "in_a_thread", "needs": ["a", "b"]},
    ]
    run(*steps, tools=[fake_tool("meet", meet), in_a_thread])
    logging.getLogger("planloom.mine").info("outside")

    mine = [(one["message"], one.get("run"), one.get("step"), one.get("attempt")) for one in lines(stream)]
    assert ("a is there", "r", "a", 1) in mine
    assert ("b is there", "r", "b", 1) in mine
    assert ("in False", "r", "c", 1) in mine
    assert ("by its own logger", "r", "c", 1) in mine
    assert ("outside", None, None, None) in mine


def test_what_is_logged_after_an_attempt_where_it_was_made_is_not_about_it() -> None:
    seen: list[Any] = []

    class Looks:
        async def execute(self, request: RunStep, context: AttemptContext) -> StepOutcome:
            seen.append(under_way.get())
            if request.attempt > 1:
                raise ConnectionError("gone")
            return StepOutcome("fine")

    async def main() -> None:
        for attempt in (1, 2):
            await Attempts(Looks())(replace(asking(), attempt=attempt), Books())
            seen.append(under_way.get())

    asyncio.run(main())

    assert [one and one[2] for one in seen] == [1, None, 2, None]


def test_what_becomes_of_a_run_is_logged_without_a_word_of_what_it_is_about(stream: io.StringIO) -> None:
    logs.configure(format="json", level="DEBUG", stream=stream)
    retry = {"max_attempts": 2, "initial_delay": 0}
    steps = [
        {"id": "a", "tool": "flaky", "retry": retry, "with": {"x": "an argument"}},
        {"id": "b", "model": "m", "prompt": "a prompt", "needs": ["a"], "tools": ["look"]},
        {"id": "c", "tool": "bad", "needs": ["b"]},
    ]
    tools = [
        fake_tool("flaky", [ConnectionError("an error"), "a result"]),
        fake_tool("look", ["seen"]),
        fake_tool("bad", [ValueError("another error")]),
    ]
    model = ScriptedModel([ToolCall("1", "look", {}), "an answer"])

    run(*steps, tools=tools, models={"m": model})

    told = [(one["level"], one["message"], one.get("step")) for one in lines(stream)]
    assert told[0] == ("info", "run.started plan='p'", None)
    assert ("info", "attempt.failed kind=error", "a") in told
    assert ("info", "step.retry in_s=0", "a") in told
    assert ("warning", "step.failed status=failed kind=error", "c") in told
    assert told[-1] == ("warning", "run.ended status=failed", None)
    for word in ("argument", "prompt", "result", "seen", "answer", "an error", "another error"):
        assert word not in stream.getvalue()


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_line_is_one_line_without_secrets_whatever_is_in_it(stream: io.StringIO, format: Any) -> None:
    masking.declare({"A_LOGGED_SECRET": "hush-hush-4711"})
    logs.configure(format=format, stream=stream, loggers=NAMES)
    logger = logging.getLogger("elsewhere.deep")

    try:
        raise RuntimeError("hush-hush-4711\nand\u2028on")
    except RuntimeError:
        logger.exception("it said\n%s\r\n\ud800", "hush-hush-4711")
    logger.warning("%d of %s", *["no number"])

    written = stream.getvalue().removesuffix("\n").split("\n")
    assert len(written) == 2
    assert len(stream.getvalue().splitlines()) == 2
    assert "hush-hush" not in stream.getvalue()
    assert "it said" in written[0]
    assert "RuntimeError" in written[0]
    assert "%d of %s" in written[1]


def test_a_second_call_takes_the_place_of_the_first_and_nothing_is_told_twice(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(format="json", level="ERROR", stream=io.StringIO())
    logs.configure(format="json", level="INFO", stream=stream)
    logging.getLogger("planloom.x").info("once")
    logs.configure(format="text", level="warning")
    logging.getLogger("planloom.x").warning("to the end")

    assert [one["message"] for one in lines(stream)] == ["once"]
    assert capsys.readouterr().err.rstrip().endswith("WARNING planloom.x: to the end")


@pytest.mark.parametrize("given", [{"format": "xml"}, {"level": "LOUD"}])
def test_a_format_or_level_that_does_not_exist_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="logs cannot be"):
        logs.configure(**given)

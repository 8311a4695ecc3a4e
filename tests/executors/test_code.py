"""Code steps of plans: what they are given, may call and use, what is on record, and how they fail."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import pytest

from planloom import Engine, RunResult, execute_plan
from planloom.core.code import SandboxLimits
from planloom.core.commands import Grant, RunStep
from planloom.core.events import CallEnded
from planloom.core.result import RunStatus
from planloom.errors import CodeRefusedError, ConfigError, GrantError, NotAllowedError, OutputError
from planloom.executors.calls import ToolCalls
from planloom.executors.code import CodeExecutor, name_in_code
from planloom.executors.threads import ThreadPool
from planloom.plan.model import Step
from planloom.plan.policy import Effects, ResourceLimits
from planloom.sandbox.watch import descendants
from planloom.tools.registry import ToolRegistry
from planloom.tools.tool import Tool
from tests.executors.attempts import Books

pytest.importorskip("pydantic_monty", reason="not installed: pydantic-monty (pip install 'planloom[sandbox]')")


@pytest.fixture(params=["monty", "cpython"])
def runtime(request: pytest.FixtureRequest) -> str:
    if request.param == "cpython" and shutil.which("bwrap") is None:
        pytest.skip("not installed: bubblewrap (apt-get install bubblewrap)")
    return str(request.param)


def registry(*functions: Callable[..., Any], **declared: Any) -> ToolRegistry:
    return ToolRegistry([Tool.from_function(one, **({"effects": "none"} | declared)) for one in functions])


def plan(code: Any, **step: Any) -> dict[str, Any]:
    top = {name: step.pop(name) for name in ("limits", "allow") if name in step}
    return {"planloom": 1, "name": "p", "steps": [{"id": "a", "code": code, **step}], **top}


def run(document: dict[str, Any], **options: Any) -> RunResult:
    limits, allow = options.pop("limits", None), options.pop("allow", None)

    async def main() -> RunResult:
        async with Engine(**({"tools": ()} | options)) as engine:
            return await engine.run(document, limits=limits, allow=allow)

    return asyncio.run(main())


def request(code: dict[str, Any], args: dict[str, Any] | None = None, **fields: Any) -> RunStep:
    made = Step(id="a", code=code)
    return RunStep("r", "a", made, 1, 1, args or {}, Effects.NONE, False, "r/a", **fields)


def attempt(asked: RunStep, books: Books, *functions: Any, **declared: Any) -> Any:
    async def main() -> Any:
        calls = ToolCalls(registry(*functions, **declared), ThreadPool(4))
        limits = SandboxLimits(wall_s=20, cpu_percent=None)
        return await CodeExecutor(calls, limits=limits).execute(asked, books)

    return asyncio.run(main())


def double(n: int) -> int:
    """Double a number."""
    return n * 2


def test_a_step_returns_what_its_code_returns_and_says_how_it_ran(runtime: str) -> None:
    source = "print('working')\nreturn {'sum': sum(numbers), 'by': name}"
    document = plan({"source": source, "runtime": runtime}, **{"with": {"numbers": [1, 2, 3], "name": "Ada"}})

    result = run(document)

    assert result.status is RunStatus.SUCCESS
    assert result.step("a").output == {"sum": 6, "by": "Ada"}
    told = (result.step("a").metadata or {})["sandbox"]
    assert (told["backend"], told["output"]) == (runtime, "working\n")
    assert "memory_mb" in told["enforced"]
    assert told["unenforced"] == {}


def test_inputs_of_a_run_are_never_read_as_code(runtime: str) -> None:
    document = {
        "planloom": 1,
        "name": "p",
        "inputs": {"text": {"type": "string"}},
        "steps": [
            {"id": "a", "code": {"source": "len(text)", "runtime": runtime}, "with": {"text": "${{ inputs.text }}"}}
        ],
    }

    result = asyncio.run(_with_inputs(document, {"text": "'); import os; ('"}))

    assert result.step("a").output == len("'); import os; ('")


async def _with_inputs(document: dict[str, Any], inputs: dict[str, Any]) -> RunResult:
    async with Engine(tools=()) as engine:
        return await engine.run(document, inputs)


@pytest.mark.slow
def test_a27_ten_calls_at_once_take_as_long_as_one(runtime: str) -> None:
    async def slow(n: int) -> int:
        """Wait and double."""
        await asyncio.sleep(0.1)
        return n * 2

    source = "import asyncio\nreturn await asyncio.gather(*[slow(n) for n in range(10)])"
    begun_at = time.perf_counter()

    result = run(
        plan({"source": source, "tools": ["slow"], "runtime": runtime}), tools=registry(slow, cost_per_call=0.5)
    )

    took_s = time.perf_counter() - begun_at
    step = result.step("a")
    assert step.output == [n * 2 for n in range(10)]
    assert step.busy_s < 0.25 * 3
    assert took_s < 3
    assert result.cost_usd == pytest.approx(5.0)


@pytest.mark.parametrize("call", ["wipe()", "tools.wipe()", "functions.wipe()", "await tools.wipe()"])
def test_a27_an_unlisted_tool_is_denied_and_not_called(runtime: str, call: str) -> None:
    called = []

    def wipe() -> None:
        """Wipe everything."""
        called.append(1)

    document = plan({"source": call, "tools": ["double"], "runtime": runtime})

    result = run(document, tools=registry(double, wipe))

    assert result.step("a").error_kind == "not_allowed"
    assert "wipe" in (result.step("a").error or "")
    assert called == []


def test_a_tool_outside_the_allowlist_is_refused_even_if_the_step_names_it() -> None:
    asked = request({"source": "double(1)", "tools": ["double"]}, allow=(frozenset({"other"}),))

    with pytest.raises(NotAllowedError):
        attempt(asked, Books(), double)


def test_calls_of_one_program_keep_to_what_the_step_was_granted(runtime: str) -> None:
    source = "import asyncio\nawait asyncio.gather(*[double(n) for n in range(8)])"
    asked = request({"source": source, "tools": ["double"], "runtime": runtime}, grant=Grant(calls=3))
    books = Books()

    with pytest.raises(GrantError, match="max_tool_calls"):
        attempt(asked, books, double)

    assert books.reported_calls <= 3


def test_money_of_calls_under_way_counts_before_the_next_is_made(runtime: str) -> None:
    async def buy(n: int) -> int:
        """Buy."""
        await asyncio.sleep(0.05)
        return n

    source = "import asyncio\nawait asyncio.gather(*[buy(n) for n in range(8)])"
    asked = request({"source": source, "tools": ["buy"], "runtime": runtime}, grant=Grant(usd=2.5))
    books = Books()

    with pytest.raises(GrantError, match="max_total_cost_usd"):
        attempt(asked, books, buy, cost_per_call=1.0)

    assert (books.reported_usd or 0) <= 2.5


def test_a_run_counts_the_calls_of_its_programs(runtime: str) -> None:
    document = plan({"source": "[double(n) for n in range(5)]", "tools": ["double"], "runtime": runtime})

    within = run(document, tools=registry(double), limits=ResourceLimits(max_tool_calls=6))
    beyond = run(document, tools=registry(double), limits=ResourceLimits(max_tool_calls=4))

    assert within.status is RunStatus.SUCCESS
    assert beyond.exceeded_limits == ("max_tool_calls",)


def test_what_was_called_before_a_crash_is_not_called_again() -> None:
    first = Books()
    source = "[double(1), double(2)]"
    attempt(request({"source": source, "tools": ["double"]}), first, double)
    recorded = {fact.key: fact for fact in first.noted if isinstance(fact, CallEnded)}
    called: list[int] = []

    def again(n: int) -> int:
        """Double a number."""
        called.append(n)
        return n * 2

    again.__name__ = "double"
    kept = dict(list(recorded.items())[:1])

    outcome = attempt(request({"source": source, "tools": ["double"]}, recorded=kept), Books(), again)

    assert len(recorded) == 2
    assert outcome.output == [2, 4]
    assert called == [2]


def test_arguments_may_be_given_by_place_and_what_is_wrong_is_told(runtime: str) -> None:
    source = "try:\n    double('x')\nexcept TypeError as e:\n    r = 'told'\n[r, double(4), double(n=5)]"

    outcome = attempt(request({"source": source, "tools": ["double"], "runtime": runtime}), Books(), double)

    assert outcome.output == ["told", 8, 10]


def test_a_tool_that_raises_fails_the_step(runtime: str) -> None:
    def broken() -> None:
        """Fail."""
        raise LookupError("no such record")

    source = "try:\n    broken()\nexcept BaseException:\n    pass\n1"

    with pytest.raises(LookupError, match="no such record"):
        attempt(request({"source": source, "tools": ["broken"], "runtime": runtime}), Books(), broken)


def test_a_tool_that_exits_fails_the_step_and_not_the_engine(runtime: str) -> None:
    async def leave() -> None:
        """Exit."""
        raise SystemExit(3)

    document = plan({"source": "leave()", "tools": ["leave"], "runtime": runtime})

    assert "sys.exit(3)" in (run(document, tools=registry(leave)).step("a").error or "")


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("def f(:", CodeRefusedError, "SyntaxError"),
        ("import socket\nsocket.socket().connect(('127.0.0.1', 1))", CodeRefusedError, "try: give it what it needs"),
        ("print", OutputError, "step 'a'"),
    ],
)
def test_code_that_will_not_do_is_refused_with_words(source: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        attempt(request({"source": source}), Books())


def test_memory_that_was_granted_is_a_limit_of_the_run(runtime: str) -> None:
    asked = request({"source": "len('x' * 600_000_000)", "runtime": runtime}, grant=Grant(memory_mb=64))

    with pytest.raises(GrantError) as caught:
        attempt(asked, Books())

    assert caught.value.limits == ("max_memory_mb",)


@pytest.mark.slow
def test_time_that_a_step_has_left_is_all_its_program_gets(runtime: str) -> None:
    document = plan({"source": "while True: pass", "runtime": runtime}, timeout_seconds=0.5)

    begun_at = time.perf_counter()
    result = run(document)

    assert result.step("a").status.value == "timed_out"
    assert time.perf_counter() - begun_at < 2
    assert list(descendants(os.getpid())) == []


@pytest.mark.slow
def test_cancelling_a_run_ends_its_programs(runtime: str) -> None:
    async def main() -> RunStatus:
        async with Engine(tools=()) as engine:
            started = await engine.start(plan({"source": "while True: pass", "runtime": runtime}))
            while not list(descendants(os.getpid())):
                await asyncio.sleep(0.01)
            await started.cancel()
            return (await engine.finish(started)).status

    assert asyncio.run(main()) is RunStatus.CANCELLED
    assert list(descendants(os.getpid())) == []


def test_a_runtime_nobody_has_is_a_configuration_error() -> None:
    async def main() -> None:
        calls = ToolCalls(registry(), ThreadPool(1))
        await CodeExecutor(calls, backends={}).execute(request({"source": "1"}), Books())

    with pytest.raises(ConfigError, match="there is no runtime 'monty' here"):
        asyncio.run(main())


def test_two_tools_of_one_name_in_code_are_refused() -> None:
    def one() -> int:
        """One."""
        return 1

    both = ToolRegistry([Tool.from_function(one, name=name, effects="none") for name in ("a.b", "a_b")])

    async def main() -> None:
        asked = request({"source": "1", "tools": ["a.b", "a_b"]})
        await CodeExecutor(ToolCalls(both, ThreadPool(1))).execute(asked, Books())

    with pytest.raises(ConfigError, match="the same name in code"):
        asyncio.run(main())


@pytest.mark.parametrize(("name", "expected"), [("receipts.extract", "receipts_extract"), ("if", "_if"), ("2d", "_2d")])
def test_a_tool_has_a_name_that_python_can_say(name: str, expected: str) -> None:
    assert name_in_code(name) == expected


def test_a_code_step_is_part_of_execute_plan() -> None:
    found = asyncio.run(execute_plan(plan({"source": "6 * 7"})))

    assert found["status"] == "success"
    assert found["steps"][0]["output"] == 42

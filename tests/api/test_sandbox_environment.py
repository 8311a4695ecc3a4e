"""The doors to the sandbox: code by itself, and code that calls tools."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from planloom import (
    ProgrammaticToolExecutor,
    ResourceLimits,
    Sandbox,
    SandboxEnvironment,
    SandboxLimits,
    SandboxResult,
    ToolCatalog,
    ToolRegistry,
)
from planloom.api.sandbox_environment import ProgramOutcome
from planloom.core.code import ErrorType
from planloom.tools.tool import Tool

pytest.importorskip("pydantic_monty", reason="not installed: pydantic-monty (pip install 'planloom[sandbox]')")


def execute(code: str, variables: Any = None, **options: Any) -> SandboxResult:
    return asyncio.run(SandboxEnvironment(**options).execute_code(code, variables))


def test_code_is_run_with_variables_and_may_return_from_its_top_level() -> None:
    result = execute("total = sum(xs)\nreturn {'total': total}", {"xs": [1, 2, 3]})

    assert (result.error, result.result) == (None, {"total": 6})


def test_what_one_program_left_the_next_does_not_find() -> None:
    async def main() -> list[SandboxResult]:
        environment = SandboxEnvironment()
        return [await environment.execute_code("x = 1"), await environment.execute_code("x")]

    first, second = asyncio.run(main())

    assert (first.success, second.error_type) == (True, ErrorType.RUNTIME)


def test_logs_are_what_was_printed_until_they_are_reset() -> None:
    async def main() -> tuple[list[str], list[str]]:
        environment = SandboxEnvironment()
        await environment.execute_code("print('one')\nprint('two')")
        await environment.execute_code("1 / 0")
        before = environment.get_logs()
        environment.reset()
        return before, environment.get_logs()

    before, after = asyncio.run(main())

    assert before[:2] == ["one", "two"]
    assert "ZeroDivisionError" in before[2]
    assert after == []


def test_an_injected_sys_is_refused() -> None:
    assert execute("return sys.version", {"sys": sys}).error_type is ErrorType.DENIED


def test_only_allowed_modules_can_be_imported() -> None:
    assert execute("import math\nreturn math.floor(1.5)", allowed_imports=["math"]).result == 1
    assert execute("import re", allowed_imports=["math"]).error_type is ErrorType.DENIED


def test_there_are_files_only_with_filesystem_access() -> None:
    code = "with open('x', 'w') as f:\n    f.write('hi')\nwith open('x') as f:\n    return f.read()"

    assert execute(code, filesystem_access=True).result == "hi"
    assert execute(code).error_type in (ErrorType.DENIED, ErrorType.DISK)


def test_limits_of_runs_are_limits_of_programs() -> None:
    environment = SandboxEnvironment(ResourceLimits(max_memory_mb=64, max_cpu_percent=25, timeout_seconds=2))

    assert (environment.limits.memory_mb, environment.limits.cpu_percent, environment.limits.wall_s) == (64, 25, 2)
    assert SandboxEnvironment(SandboxLimits(wall_s=1)).limits.wall_s == 1
    assert Sandbox("64MB").limits.memory_mb == 64


async def price(item: str, count: int = 1) -> float:
    """Look up a price."""
    await asyncio.sleep(0)
    return {"tea": 2.5, "cake": 4.0}[item] * count


def wipe() -> None:
    """Wipe everything."""
    raise AssertionError("it was called")


def catalog() -> ToolRegistry:
    return ToolRegistry(
        [
            Tool.from_function(price, effects="none", cost_per_call=0.01),
            Tool.from_function(wipe, effects="once"),
        ]
    )


def programmatic(code: str, context: Any = None, **options: Any) -> ProgramOutcome:
    return asyncio.run(ProgrammaticToolExecutor(catalog(), **options).execute(code, context))


@pytest.mark.parametrize(
    "code",
    [
        "print('adding')\nreturn sum(price(i) for i in items) + price('tea', count=2)",
        "import asyncio\nprint('adding')\n"
        "found = await asyncio.gather(*[tools.price(i) for i in items], price('tea', 2))\nreturn sum(found)",
    ],
)
def test_code_calls_the_tools_of_a_catalogue(code: str) -> None:
    outcome = programmatic(code, {"items": ["tea", "cake"]})

    assert (outcome.error, outcome.result, outcome.output) == (None, 11.5, "adding\n")
    assert [call.name for call in outcome.tool_calls] == ["price"] * 3
    assert outcome.cost_usd == pytest.approx(0.03)
    assert outcome.execution_id
    assert outcome.execution_time > 0
    assert outcome.to_dict()["tool_calls"][0]["error"] is None


def test_a_tool_that_is_not_allowed_is_not_called() -> None:
    outcome = programmatic("tools.wipe()", allow=["price"])

    assert outcome.error_type == "denied"
    assert "wipe" in (outcome.error or "")


def test_calls_keep_to_the_limits_of_the_run() -> None:
    outcome = programmatic("for _ in range(9): price('tea')", limits=ResourceLimits(max_tool_calls=4))

    assert (outcome.error_type, outcome.exceeded_limits) == ("limit", ("max_tool_calls",))


def test_memory_keeps_to_the_limits_of_the_run() -> None:
    outcome = programmatic("len('x' * 300_000_000)", limits=ResourceLimits(max_memory_mb=64))

    assert (outcome.error_type, outcome.exceeded_limits) == ("limit", ("max_memory_mb",))


def test_code_that_raises_is_an_error_and_keeps_what_it_printed() -> None:
    outcome = programmatic("print('before')\nprice('tea')\n1 / 0")

    assert (outcome.error_type, outcome.output, len(outcome.tool_calls)) == ("runtime", "before\n", 1)
    assert "ZeroDivisionError" in (outcome.error or "")
    assert not outcome.success


def test_a_tool_that_fails_is_an_error() -> None:
    outcome = programmatic("price('gold')")

    assert outcome.error_type == "error"
    assert "gold" in (outcome.error or "")


def test_variables_are_never_read_as_references() -> None:
    assert programmatic("text", {"text": "${{ inputs.secret }}"}).result == "${{ inputs.secret }}"


def test_a_tool_catalog_will_do() -> None:
    outcome = asyncio.run(ProgrammaticToolExecutor(ToolCatalog([price])).execute("return price('tea')"))

    assert outcome.result == 2.5

"""Shapes about people and time: approvals, pauses, cancels, waits, limits of time, tries that come later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from planloom import Engine
from planloom.core.events import (
    ApprovalRequested,
    CancelRequested,
    Event,
    Fact,
    PauseRequested,
    RunFinished,
    StepDispatched,
    WaitStarted,
)
from planloom.runtime.run import Run
from planloom.testing.sweep.story import RUN_ID
from tests.crash.answers import OLD
from tests.crash.flow_shapes import RETRY, sub
from tests.crash.shape import Shape, do, out

FORM = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TRIED = {"max_attempts": 9, "initial_delay": 5}


def ask(step_id: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "approve": {"message": "Go on?", **fields}, **({"needs": list(needs)} if needs else {})}


def says(kind: type[Any], step: str, fact: Callable[[float], Fact]) -> dict[str, Any]:
    """Return the staging in which somebody says something once, when the record tells this of a step."""

    def somebody() -> Callable[[Event], Fact | None]:
        def hear(event: Event) -> Fact | None:
            return fact(event.at) if isinstance(event, kind) and event.step == step else None

        return hear

    return {"says": somebody}


def cancel(at: float) -> Fact:
    return CancelRequested("somebody", at, "enough")


async def _failed_before(engine: Engine) -> None:
    run = await engine.start(AGAIN, run_id=OLD)
    async for entry in run.follow():
        if isinstance(entry.event, RunFinished):
            await engine.finish(run)


async def _again(engine: Engine) -> Run:
    return await engine.retry_failed(OLD, new_id=RUN_ID)


AGAIN: dict[str, Any] = {
    "planloom": 1,
    "name": "a run that is tried again",
    "fail_fast": False,
    "steps": [
        do("a", "pay", 1),
        do("each", "put", "${{ item }}", for_each=[1, 2]),
        do("bad", "broken_at_first", out("a")),
        do("after", "pay", out("bad")),
        do("beside", "pay", 3, "each"),
    ],
}

LABELLED: dict[str, Shape] = {
    "attempts that need a person's word": Shape(
        steps=[
            do("a", "pay", 1),
            do("b", "wire", out("a")),
            do("c", "wire_later", out("b"), retry=TRIED),
            do("each", "wire", "${{ item }}", "c", for_each=[1, 2], max_parallel=1),
            do("end", "pay", "${{ len(steps.each.output) }}"),
        ]
    ),
    "a person's word that is not given": Shape(
        fields={"fail_fast": False},
        steps=[do("a", "pay", 1), do("b", "wire", out("a")), do("c", "pay", out("b")), do("d", "put", 1, "a")],
        staging={"answers": {"b": False}},
    ),
    "labelled values on their way out": Shape(
        steps=[
            do("read", "page", 1),
            do("safe", "clean", out("read")),
            do("send", "put", out("read")),
            do("each", "pay", "${{ item }}", for_each=["${{ steps.read.output }}", 7]),
            do("end", "pay", out("safe"), "send", "each"),
        ]
    ),
}
"""What may leave only with a person's word."""

PEOPLE: dict[str, Shape] = {
    "an approval with a form": Shape(
        steps=[do("a", "pay", 1), ask("ok", "a", form=FORM), do("b", "pay", "${{ steps.ok.output.n }}")],
        staging={"answers": {"ok": {"n": 17}}},
    ),
    "a denial": Shape(
        fields={"fail_fast": False},
        steps=[
            do("a", "pay", 1),
            ask("ok", "a"),
            do("never", "pay", 2, "ok"),
            do("clean", "put", 3, "ok", join="always"),
        ],
        staging={"answers": {"ok": False}},
    ),
    "an approval that nobody gives": Shape(
        fields={"fail_fast": False},
        steps=[
            do("a", "pay", 1),
            ask("ok", "a", expires_seconds=7_200) | {"on_error": "continue"},
            do("b", "pay", 2, "ok"),
        ],
        staging={"answers": {"ok": None}},
    ),
    "one approval after the other": Shape(
        steps=[ask("ok0")]
        + [step for n in range(1, 4) for step in (do(f"s{n}", "pay", n, f"ok{n - 1}"), ask(f"ok{n}", f"s{n}"))]
    ),
    "approvals inside": Shape(
        steps=[
            sub(
                "each",
                [do("x", "put", "${{ inputs.n }}"), ask("ok", "x"), do("y", "pay", out("x"), "ok")],
                for_each=[1, 2],
                **{"with": {"n": "${{ item }}"}},
            ),
            do("end", "pay", 1, "each"),
        ]
    ),
    "a pause": Shape(
        steps=[
            do("a", "pay", 1),
            do("b", "pay", out("a")),
            do("c", "put", out("b")),
            {"id": "w", "wait": 60, "needs": ["b"]},
            do("end", "pay", out("c"), "w"),
        ],
        staging=says(WaitStarted, "w", lambda at: PauseRequested("somebody", at)),
    ),
    "a cancel while it waits": Shape(
        steps=[
            do("a", "pay", 1),
            do("each", "put", "${{ item }}", for_each=[1, 2, 3]),
            ask("ok", "a", "each"),
            do("never", "pay", 2, "ok"),
        ],
        staging={"answers": {"ok": None}} | says(ApprovalRequested, "ok", cancel),
    ),
    "a cancel while something goes on for ever": Shape(
        steps=[
            do("a", "pay", 1),
            do("for_ever", "endless", 1, "a"),
            {"id": "w", "wait": 60, "needs": ["a"]},
            do("never", "pay", 2, "for_ever", "w"),
        ],
        staging=says(WaitStarted, "w", cancel),
    ),
    "a cancel inside": Shape(
        steps=[
            sub(
                "each",
                [do("x", "pay", "${{ inputs.n }}"), do("last", "endless", 1, "x")],
                for_each=[1, 2],
                max_parallel=1,
                **{"with": {"n": "${{ item }}"}},
            ),
            do("never", "pay", 1, "each"),
        ],
        staging=says(StepDispatched, "each[0]/last", cancel),
    ),
    "waits of every kind": Shape(
        steps=[
            do("a", "pay", 1),
            {"id": "w", "wait": 30, "needs": ["a"]},
            {"id": "long", "wait": {"seconds": "${{ max([steps.a.output, 7200]) }}"}},
            {"id": "moment", "wait": {"until": "2026-01-01T00:00:00+00:00"}},
            do("b", "pay", 2, "w"),
            do("c", "pay", 3, "long", "moment"),
        ]
    ),
    "attempts that take too long": Shape(
        steps=[
            do("a", "late_at_first", 1, attempt_timeout=10, retry=TRIED),
            do("b", "pay", out("a"), attempt_timeout=10),
            do("never", "endless", 1, attempt_timeout=10, on_error="continue", retry=RETRY),
            do("end", "pay", out("b"), "never"),
        ]
    ),
    "a run whose time is over": Shape(
        fields={"limits": {"timeout_seconds": 20}},
        steps=[
            do("a", "pay", 1),
            do("for_ever", "endless", 1, "a"),
            do("never", "pay", 2, "for_ever"),
            do("clean", "put", 3, "for_ever", join="always"),
        ],
        staging={"down_s": 0.0},
    ),
    "tries that come later": Shape(
        steps=[
            do("a", "flaky", 1, retry=TRIED),
            do("b", "not_yet", out("a"), retry=TRIED | {"jitter": False}),
            do("c", "flaky", out("b"), retry=TRIED | {"initial_delay": 7_200, "max_delay": 9_000}),
            do("d", "picky", 2, retry=TRIED | {"max_attempts": 3}, on_error="continue"),
            do("end", "pay", out("c"), "d"),
        ]
    ),
    "tools that are spared": Shape(
        steps=[do(f"r{n}", "rated", n) for n in range(3)]
        + [do("f", "fragile", 1, retry=TRIED | {"initial_delay": 60}), do("end", "pay", out("f"), "r0", "r1", "r2")]
    ),
    "limits that hold": Shape(
        fields={
            "limits": {
                "max_tool_calls": 1_000,
                "max_total_cost_usd": 100.0,
                "max_concurrent": 2,
                "timeout_seconds": 90_000,
            }
        },
        steps=[do(f"s{n}", ("dear", "pay")[n % 2], n) for n in range(6)] + [do("end", "pay", 1, "s0", "s5")],
    ),
    "a run that is tried again": Shape(
        fields={name: value for name, value in AGAIN.items() if name != "steps"},
        steps=AGAIN["steps"],
        staging={"prepare": _failed_before, "begin": _again},
    ),
}

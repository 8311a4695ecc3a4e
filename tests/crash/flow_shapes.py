"""Shapes about what comes after what: joins, conditions, failures, sub-plans, order."""

from __future__ import annotations

from typing import Any

from tests.crash.shape import Shape, Steps, do, out

RETRY = {"max_attempts": 2, "initial_delay": 5}


def join(rule: str) -> Shape:
    """Return steps that end in every way, all before one with that rule, which comes before another."""
    return Shape(
        fields={"fail_fast": False},
        steps=[
            do("good", "pay", 1),
            do("bad", "picky", 2, on_error="continue"),
            do("left_out", "pay", 3, when="false"),
            do("tried", "not_yet", 4, retry=RETRY | {"max_attempts": 5}),
            do("given_up", "picky", 2, on_error="skip", retry=RETRY),
            do("end", "pay", 5, "good", "bad", "left_out", "tried", "given_up", join=rule),
            do("behind", "put", 6, "end"),
            do("always", "put", 7, "behind", join="always"),
        ],
    )


def sub(step_id: str, steps: Steps, **fields: Any) -> dict[str, Any]:
    return {"id": step_id, "plan": {"name": step_id, "steps": steps}, **fields}


FLOW: dict[str, Shape] = {
    **{
        f"join {rule}": join(rule)
        for rule in ("all_success", "none_failed_min_one_success", "all_done", "one_success", "none_failed", "always")
    },
    "edges with conditions": Shape(
        steps=[
            do("a", "pay", 1),
            do("b", "put", 2),
            do("yes", "pay", out("a")) | {"needs": [{"step": "b", "when": "steps.b.output > 1"}]},
            do("no", "pay", 3) | {"needs": [{"step": "a", "when": "steps.a.output > 9"}]},
            do("end", "pay", "${{ default(steps.no.output, steps.yes.output) }}", "yes", "no"),
        ]
    ),
    "every kind of on_error": Shape(
        fields={"fail_fast": False},
        steps=[
            do("goes_on", "picky", 2, on_error="continue", retry=RETRY),
            do("skips", "bounce", 2, on_error="skip"),
            do("fails", "picky", 2, on_error="fail"),
            do("after_going_on", "pay", 1, "goes_on"),
            do("after_skipping", "pay", 1, "skips"),
            do("after_failing", "pay", 1, "fails"),
            do("beside", "pay", 1),
        ],
    ),
    "a failure that stops the others": Shape(
        steps=[
            do("slow", "slow", 1),
            do("a", "pay", 1),
            do("bad", "bounce", 2, "a"),
            do("never", "pay", 1, "slow"),
            do("clean", "put", 0, "bad", "slow", join="always"),
            do("cleaner", "pay", 0, "clean", join="always"),
        ]
    ),
    "a chain of pure steps before an effect": Shape(
        steps=[do("s0", "pure", 1)]
        + [do(f"s{n}", ("pure", "sync_pure")[n % 2], out(f"s{n - 1}")) for n in range(1, 8)]
        + [do("end", "pay", out("s7"))]
    ),
    "sync tools": Shape(
        steps=[
            do("a", "sync_pay", 1),
            do("b", "sync_pay", 2),
            do("c", "sync_pure", out("a"), "b"),
            do("d", "sync_pay", out("c"), timeout_seconds=60),
        ]
    ),
    "sub-plans in sub-plans": Shape(
        steps=[
            sub(
                "outer",
                [
                    do("x", "pay", 1),
                    sub("inner", [do("y", "put", 2), sub("innermost", [do("z", "pay", 3)], needs=["y"])], needs=["x"]),
                    do("last", "pay", 4, "inner"),
                ],
            ),
            do("end", "pay", 5, "outer"),
        ]
    ),
    "a sub-plan that fails": Shape(
        steps=[
            sub(
                "sub",
                [do("x", "pay", 1), do("bad", "picky", 2, "x"), do("tidy", "put", 3, "bad", join="always")],
                on_error="continue",
            ),
            do("end", "pay", 5, "sub"),
        ]
    ),
    "in turn and side by side": Shape(
        steps=[do(f"turn{n}", "pay", n, mode="sequential") for n in range(4)]
        + [do(f"side{n}", "put", n) for n in range(3)]
        + [do("end", "pay", 1, "turn3", "side2")]
    ),
    "one after the other": Shape(
        steps=[do(f"s{n}", ("pay", "put")[n % 2], n) for n in range(6)], staging={"options": {"parallel": False}}
    ),
    "priorities": Shape(
        fields={"limits": {"max_concurrent": 1, "timeout_seconds": None}},
        steps=[do(f"s{n}", ("pay", "put")[n % 2], n, priority=n % 3) for n in range(7)],
    ),
    "named concurrency": Shape(
        fields={"concurrency": {"bank": 1, "post": 2}},
        steps=[do(f"b{n}", "pay", n, concurrency="bank") for n in range(3)]
        + [do(f"p{n}", "put", n, concurrency="post") for n in range(4)]
        + [do("end", "pay", out("b0"), "b1", "b2", "p3")],
    ),
    "keys of the author's": Shape(
        steps=[
            do("a", "key_of", 1, idempotency_key="first"),
            do("b", "key_of", 2, "a", idempotency_key="after-${{ steps.a.output }}"),
            do("c", "pay", 3, "b", idempotency_key="${{ steps.b.output }}-pay"),
            do("each", "put", "${{ item }}", "c", for_each=[1, 2, 3], idempotency_key="item-${{ item }}"),
        ]
    ),
    "large outputs": Shape(
        steps=[
            do("a", "big", 1),
            do("each", "big", "${{ item }}", for_each=[1, 2]),
            {"id": "size", "tool": "measure", "with": {"text": out("a")}},
            {"id": "sizes", "tool": "measure", "for_each": out("each"), "with": {"text": "${{ item }}"}},
            do("end", "pay", out("size"), "sizes"),
        ]
    ),
    "cached results": Shape(
        steps=[do("a", "pure", 1, cache={}), do("again", "pure", 1, "a", cache={}), do("b", "pay", out("again"))]
        + [do(f"s{n}", "sync_pure", 7, "b", cache={"ttl_seconds": 60}) for n in range(3)]
        + [do("end", "pay", out("s2"), "s0", "s1")]
    ),
}

"""Shapes about maps: one step for each of many items."""

from __future__ import annotations

from typing import Any

from tests.crash.flow_shapes import RETRY, sub
from tests.crash.shape import Shape, Steps, do, out

ITEM = "${{ item }}"


def each(tool: str, items: Any, n: Any = ITEM, *needs: str, **fields: Any) -> dict[str, Any]:
    return do("each", tool, n, *needs, for_each=items, **fields)


def then(*steps: dict[str, Any]) -> Steps:
    return [*steps, do("end", "pay", "${{ len(steps.each.output) }}")]


MAPS: dict[str, Shape] = {
    "a wide map": Shape(steps=then(each("pay", [1, 2, 3, 4, 5, 6]))),
    "a map one at a time": Shape(steps=then(each("pay", [1, 2, 3, 4], max_parallel=1))),
    "a map of nothing": Shape(
        steps=[do("a", "pay", 1), each("pay", [], ITEM, "a"), do("end", "pay", "${{ len(steps.each.output) }}")]
    ),
    "a map of what a map gave": Shape(
        steps=[
            do("first", "put", ITEM, for_each=[1, 2, 3], max_parallel=2),
            do("second", "pay", ITEM, for_each=out("first"), max_parallel=2),
            do("end", "pay", "${{ sum(steps.second.output) }}"),
        ]
    ),
    "a map of maps": Shape(
        steps=then(
            sub(
                "each",
                [
                    do("inner", "pay", "${{ item }}", for_each=["${{ inputs.n }}", 10], max_parallel=1),
                    do("sum", "put", "${{ sum(steps.inner.output) }}"),
                ],
                for_each=[1, 2, 3],
                max_parallel=2,
                **{"with": {"n": ITEM}},
            )
        )
    ),
    "a map whose items are tried again": Shape(
        steps=then(each("not_yet", [1, 2, 3], max_parallel=2, retry=RETRY | {"max_attempts": 5}))
    ),
    "a map that collects": Shape(
        steps=then(each("picky", [1, 2, 3, 2, 5], on_item_error="collect", max_parallel=2, retry=RETRY))
    ),
    "a map that gives up": Shape(
        fields={"fail_fast": False},
        steps=[
            each("picky", [2, 2, 2, 2, 2, 2, 1], max_parallel=1, on_item_error="collect", max_failure_rate=0.5),
            do("never", "pay", 1, "each"),
            do("clean", "put", 1, "each", join="always"),
        ],
    ),
    "a map that fails fast": Shape(
        steps=[
            each("picky", [1, 2, 3, 4], max_parallel=1, on_error="continue"),
            do("end", "pay", 1, "each"),
        ]
    ),
    "a map of sub-plans that collects": Shape(
        steps=then(
            sub(
                "each",
                [do("x", "pay", "${{ inputs.n }}"), do("bad", "picky", "${{ inputs.n }}", "x")],
                for_each=[1, 2, 3],
                on_item_error="collect",
                max_parallel=2,
                **{"with": {"n": ITEM}},
            )
        )
    ),
    "a map with a place for one": Shape(
        fields={"limits": {"max_concurrent": 1, "max_tool_calls": 1_000, "timeout_seconds": None}},
        steps=then(each("pay", [1, 2, 3]), do("beside", "put", 1)),
    ),
}

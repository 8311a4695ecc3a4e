"""Laws of `as_json`: a fresh copy in plain JSON types, or an error that says where it is none."""

from __future__ import annotations

import json
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from planloom.errors import OutputError
from planloom.plan.values import MAX_DEPTH, as_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS | st.dates() | st.uuids() | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner, inner)
        | st.frozensets(SCALARS, max_size=4)
    ),
    max_leaves=20,
)


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


class Pair(Enum):
    ONE = (1, "a")


class Receipt(BaseModel):
    total: Decimal
    when: date


@dataclass
class Line:
    name: str
    amounts: tuple[float, ...]


@pytest.mark.slow
@given(VALUES)
def test_what_comes_out_survives_json_text_and_being_converted_again(value: Any) -> None:
    copy = as_json(value)

    assert json.loads(json.dumps(copy, allow_nan=False)) == copy
    assert json.dumps(copy, ensure_ascii=False).encode()
    assert as_json(copy) == copy


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "red"),
        (Size.BIG, 3),
        (Pair.ONE, [1, "a"]),
        (Receipt(total=Decimal("1.50"), when=date(2026, 1, 2)), {"total": "1.50", "when": "2026-01-02"}),
        (Line("tea", (1.0, 2.0)), {"name": "tea", "amounts": [1.0, 2.0]}),
        (namedtuple("P", "x y")(1, 2), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        ({"b", 1, None}, ["b", 1, None]),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (PurePosixPath("/a/b"), "/a/b"),
        (Decimal("0.10"), "0.10"),
        ({Colour.RED: {"deep": (1,)}}, {"red": {"deep": [1]}}),
    ],
)
def test_each_known_type_has_one_json_form(value: Any, expected: Any) -> None:
    copy = as_json(value)

    assert copy == expected
    assert type(copy) is type(expected)


def test_the_copy_shares_nothing_with_the_original() -> None:
    original = {"items": [{"a": [1]}]}

    copy = as_json(original)
    original["items"][0]["a"].append(2)

    assert copy == {"items": [{"a": [1]}]}


async def _unawaited() -> None: ...


CYCLE: list[Any] = []
CYCLE.append({"again": CYCLE})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"items": [0, 1, 2, {"when": float("nan")}]}, r"output\.items\[3\]\.when is nan"),
        (float("inf"), "output is inf"),
        (Decimal("NaN"), "output is NaN"),
        (b"x", "output is bytes"),
        ({1: 2}, r"output\['1'\] is a key that is not text: 1"),
        ({10**5000: 2}, "a key that is not text: a int"),
        ({"a b": object()}, r"output\['a b'\] is of type object"),
        (CYCLE, "contains itself"),
        (ValueError("x"), r"output is an error \(ValueError: x\)"),
        ([10**5000], "more than 4,299 digits"),
        ("\ud800", "text that UTF-8 cannot write"),
        ({"\ud800": 1}, "text that UTF-8 cannot write"),
        ((one for one in [1]), "is of type generator"),
        ({1.5: 1}, "not text: 1.5"),
    ],
)
def test_what_has_no_faithful_form_is_refused_with_its_path(value: Any, message: str) -> None:
    with pytest.raises(OutputError, match=message) as caught:
        as_json(value)

    assert caught.value.remedy


def test_a_coroutine_is_refused_and_closed_so_that_nobody_is_warned_later() -> None:
    coroutine = _unawaited()

    with pytest.raises(OutputError, match="nobody awaited"):
        as_json({"x": coroutine})

    assert coroutine.cr_frame is None


def test_two_keys_that_become_one_text_are_refused() -> None:
    class Other(Enum):
        RED = "red"

    with pytest.raises(OutputError, match="two of its keys"):
        as_json({Colour.RED: 1, Other.RED: 2})


def test_depth_is_bounded_and_said_to_be_depth_not_a_cycle() -> None:
    value: Any = 0
    for _ in range(MAX_DEPTH):
        value = [value]

    assert as_json(value) == value
    with pytest.raises(OutputError, match=f"more than {MAX_DEPTH} levels"):
        as_json([value])

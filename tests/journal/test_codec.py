"""Every event as a row and back."""

import math
from dataclasses import MISSING, fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.core.events import (
    EVENT_TYPES,
    AgentFacts,
    ApprovalAnswered,
    AttemptFailed,
    AttemptSucceeded,
    Event,
    RunStarted,
    StepDispatched,
    StepExpanded,
    ToolFacts,
)
from planloom.core.prices import ModelFacts, ModelPrice
from planloom.core.result import RunStatus, SkipReason, StepStatus, Usage
from planloom.errors import JournalFormatError, OutputError
from planloom.journal.blobs import INLINE_LIMIT_BYTES, intact
from planloom.journal.codec import decode, encode
from planloom.plan.flow import FlowPolicy
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, FailureKind, ResourceLimits

AT = 1_700_000_000.123
PLAN = Plan.from_dict({"name": "p", "steps": [{"id": "a", "tool": "t", "with": {"x": "ü"}}, {"id": "b", "wait": 3}]})

numbers = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | numbers | st.text(max_size=20)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
objects = st.dictionaries(st.text(max_size=8), values, max_size=4)
names = st.lists(st.text(max_size=8), max_size=3).map(tuple)
counts = st.integers(0, 2**40)
usages = st.builds(Usage, counts, counts, counts, counts, counts, counts)
prices = st.builds(
    ModelPrice,
    numbers,
    numbers,
    st.none() | numbers,
    st.none() | numbers,
    st.lists(st.tuples(counts, numbers, numbers), max_size=2).map(tuple),
    numbers,
    st.text(max_size=8),
)
models = st.builds(
    ModelFacts,
    st.text(max_size=8),
    st.text(max_size=8),
    st.text(max_size=8),
    st.none() | prices,
    counts,
    st.none() | counts,
)
tools = st.builds(
    ToolFacts,
    st.text(max_size=8),
    st.none() | st.sampled_from(Effects),
    st.none() | numbers,
    st.none() | numbers,
    st.none() | numbers,
    st.none() | numbers,
    source=names,
    secret=st.booleans(),
    sink=st.none() | st.booleans(),
    accepts=names,
    cleans=names,
    needs_approval=st.booleans(),
)
agents = st.builds(
    AgentFacts, st.text(max_size=8), st.none() | st.sampled_from(Effects), st.none() | st.text(max_size=8)
)
limits = st.builds(
    lambda given: ResourceLimits(**given),
    st.dictionaries(st.sampled_from(["max_tool_calls", "max_concurrent", "timeout_seconds"]), st.integers(1, 9)),
)
policies = st.builds(
    FlowPolicy,
    untrusted=st.sampled_from(["ask", "refuse", "allow"]),
    secret=st.sampled_from(["ask", "refuse", "allow"]),
    models_accept=st.lists(st.sampled_from(["secret", "web"]), max_size=2, unique=True).map(tuple),
    approval_seconds=st.none() | st.integers(1, 9),
)
plans = st.builds(
    lambda name, value: Plan.from_dict({"name": name, "steps": [{"id": "a", "tool": "t", "with": {"value": value}}]}),
    st.text(max_size=8),
    values,
)
BY_ANNOTATION: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(max_size=20),
    "str | None": st.none() | st.text(max_size=20),
    "int": counts,
    "float": numbers,
    "float | None": st.none() | numbers,
    "bool": st.booleans(),
    "Any": values,
    "list[Any]": st.lists(values, max_size=4),
    "dict[str, Any]": objects,
    "dict[str, Any] | None": st.none() | objects,
    "tuple[dict[str, Any], ...]": st.lists(objects, max_size=3).map(tuple),
    "tuple[str, ...]": names,
    "tuple[str, ...] | None": st.none() | names,
    "Usage | None": st.none() | usages,
    "dict[str, ToolFacts]": st.dictionaries(st.text(max_size=8), tools, max_size=3),
    "dict[str, ModelFacts]": st.dictionaries(st.text(max_size=8), models, max_size=3),
    "dict[str, AgentFacts]": st.dictionaries(st.text(max_size=8), agents, max_size=3),
    "Effects": st.sampled_from(Effects),
    "ResourceLimits | None": st.none() | limits,
    "FlowPolicy | None": st.none() | policies,
    "Plan": plans,
    "FailureKind": st.sampled_from(FailureKind),
    "RunStatus": st.sampled_from(RunStatus),
    "StepStatus": st.sampled_from(StepStatus),
    "SkipReason": st.sampled_from(SkipReason),
}


def any_event(event_type: type[Any]) -> st.SearchStrategy[Event]:
    return st.builds(event_type, **{field.name: BY_ANNOTATION[str(field.type)] for field in fields(event_type)})


def back(event: Event) -> Event:
    kind, version, body, blobs = encode(event)
    stored = {blob.sha256: blob.text for blob in blobs}
    return decode(kind, version, body, lambda name: intact(name, stored.get(name)))


def no_blobs(name: str) -> str:
    raise AssertionError(f"asked for {name}")


@pytest.mark.slow
@pytest.mark.parametrize("event_type", EVENT_TYPES, ids=lambda event_type: event_type.__name__)
def test_every_event_comes_back_equal(event_type: type[Any]) -> None:
    @given(any_event(event_type))
    def check(event: Event) -> None:
        found = back(event)

        assert found == event
        assert [type(getattr(found, f.name)) for f in fields(found)] == [
            type(getattr(event, f.name)) for f in fields(event)
        ]

    check()


def test_every_event_type_has_its_own_kind() -> None:
    union = get_args(Event)

    assert set(union) == set(EVENT_TYPES)
    assert encode(StepDispatched("a", 1, 0, AT))[:2] == ("step_dispatched", 1)


def test_fields_equal_to_their_default_are_left_out() -> None:
    _, _, body, blobs = encode(AttemptSucceeded("a", 1, 0, {"x": "ü"}, AT, AT, usage=None, cached=False))

    assert (
        body == '{"step":"a","attempt":1,"epoch":0,"output":{"x":"ü"},"started_at":1700000000.123,"at":1700000000.123}'
    )
    assert blobs == ()


def test_a_field_that_is_none_and_not_by_default_is_kept() -> None:
    assert '"output":null' in encode(AttemptSucceeded("a", 1, 0, None, AT, AT))[2]
    assert "output" not in encode(ApprovalAnswered("a", True, "ann", AT))[2]


def test_a_plan_is_always_stored_apart_under_its_hash() -> None:
    _, _, body, blobs = encode(RunStarted(PLAN, {}, AT))

    assert [(blob.sha256, blob.text) for blob in blobs] == [(PLAN.hash, PLAN.canonical_json)]
    assert body == f'{{"plan@blob":"{PLAN.hash}","inputs":{{}},"at":1700000000.123}}'


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_a_value_is_stored_apart_from_the_first_byte_beyond_the_limit(letter: str) -> None:
    size = len(letter.encode())
    fits = letter * ((INLINE_LIMIT_BYTES - 2) // size)

    kept = encode(AttemptSucceeded("a", 1, 0, fits, AT, AT))
    apart = encode(AttemptSucceeded("a", 1, 0, fits + letter, AT, AT))

    assert kept[3] == ()
    assert [blob.size_bytes for blob in apart[3]] == [INLINE_LIMIT_BYTES + size]
    assert "output@blob" in apart[2]


def test_equal_large_values_have_one_name() -> None:
    items = ["x" * 1000] * 100

    first, second = encode(StepExpanded("a", items, AT)), encode(StepExpanded("b", list(items), AT + 1))

    assert first[3] == second[3]
    assert back(StepExpanded("a", items, AT)) == StepExpanded("a", items, AT)


def test_a_user_value_that_looks_like_a_blob_mark_is_a_value() -> None:
    event = AttemptSucceeded("a", 1, 0, {"output@blob": "0" * 64, "@blob": [1]}, AT, AT)

    assert decode(*encode(event)[:3], no_blobs) == event


def test_limits_keep_which_fields_were_set() -> None:
    event = RunStarted(PLAN, {}, AT, limits=ResourceLimits(max_tool_calls=100))

    found = back(event)

    assert isinstance(found, RunStarted)
    assert found.limits is not None
    assert found.limits.model_fields_set == {"max_tool_calls"}


def test_lone_surrogates_survive() -> None:
    event = AttemptSucceeded("a", 1, 0, {"\udc80": "ü\ud800"}, AT, AT)

    encode(event)[2].encode("utf-8")

    assert back(event) == event


def test_deep_values_survive() -> None:
    value: Any = 1
    for _ in range(400):
        value = [value]
    event = AttemptSucceeded("a", 1, 0, value, AT, AT)

    assert back(event) == event


circle: list[Any] = []
circle.append(circle)


NOT_JSON = {
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "nan in a list": [math.nan],
    "infinity deep down": {"a": {"b": math.inf}},
    "bytes": b"bytes",
    "a set": {1, 2},
    "an object": object(),
    "a tuple as a key": {(1, 2): 3},
    "a circle": circle,
}


@pytest.mark.parametrize("value", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(OutputError, match="attempt_succeeded") as caught:
        encode(AttemptSucceeded("a", 1, 0, value, AT, AT))

    assert caught.value.remedy


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_times_and_costs_are_finite(number: float) -> None:
    with pytest.raises(OutputError):
        encode(StepDispatched("a", 1, 0, number))
    with pytest.raises(OutputError):
        encode(AttemptSucceeded("a", 1, 0, None, AT, AT, cost_usd=number))
    with pytest.raises(OutputError):
        encode(RunStarted(PLAN, {"x": [number]}, AT))


def test_a_plan_that_speaks_of_infinity_is_json() -> None:
    event = RunStarted(Plan.from_dict({"name": "Infinity and NaN"}), {}, AT)

    assert back(event) == event


@pytest.mark.parametrize(
    ("kind", "version", "body", "what"),
    [
        ("step_teleported", 1, "{}", "no event 'step_teleported'"),
        ("timer_fired", 2, '{"step":"a","at":1.5}', "format 2"),
        ("timer_fired", 1, '{"step":"a","at":1.5,"mood":"blue"}', "'mood'"),
        ("timer_fired", 1, '{"step":"a","at":1.5,"step@blob":"0"}', "'step@blob'"),
        ("timer_fired", 1, '{"step@blob":"0","at":1.5}', "'step@blob'"),
        ("timer_fired", 1, '{"step":"a"}', "it has no at"),
        ("timer_fired", 1, '{"step":"a","at":1.5', "damaged"),
        ("timer_fired", 1, "[]", "not an object"),
        ("timer_fired", 1, '{"step":7,"at":1.5}', "step: 7 is not str"),
        ("timer_fired", 1, '{"step":"a","at":NaN}', "damaged"),
        ("step_dispatched", 1, '{"step":"a","attempt":true,"epoch":0,"at":1.5}', "attempt: True is not int"),
        ("run_finished", 1, '{"status":"splendid","output":null,"at":1.5}', "status"),
        ("run_started", 1, '{"plan":{"steps":7},"inputs":{},"at":1.5}', "plan"),
        ("run_started", 1, '{"plan":{},"inputs":{},"at":1.5,"limits":{"max_tears":1}}', "limits"),
        ("run_started", 1, '{"plan":{},"inputs":{},"at":1.5,"tools":{"t":{"digest":"d","color":1}}}', "tools"),
        ("run_started", 1, '{"plan":{},"inputs":{},"at":1.5,"tools":{"t":2.5}}', "tools: 2.5 is not dict"),
        ("run_started", 1, '{"plan":{},"inputs":{},"at":1.5,"models":{"m":2.5}}', "models: 2.5 is not dict"),
        ("run_started", 1, '{"plan":{},"inputs":{},"at":1.5,"models":{"m":{"uri":"x://m","price":2.5}}}', "models"),
        ("attempt_succeeded", 1, '{"output":1,"output@blob":"0"}', "'output@blob'"),
    ],
)
def test_what_this_planloom_does_not_know_is_refused(kind: str, version: int, body: str, what: str) -> None:
    with pytest.raises(JournalFormatError, match="event") as caught:
        decode(kind, version, body, no_blobs)

    assert what in caught.value.message
    assert caught.value.remedy


def test_a_large_value_that_is_missing_or_changed_is_refused() -> None:
    kind, version, body, blobs = encode(RunStarted(PLAN, {}, AT))

    with pytest.raises(JournalFormatError, match="missing"):
        decode(kind, version, body, lambda name: intact(name, None))
    with pytest.raises(JournalFormatError, match="damaged"):
        decode(kind, version, body, lambda name: intact(name, blobs[0].text + " "))


def test_recorded_rows_are_read_for_ever() -> None:
    rows = {
        '{"step":"a","attempt":2,"epoch":1,"kind":"timeout","error":"30 s","started_at":1.5,"at":2}': AttemptFailed(
            "a", 2, 1, FailureKind.TIMEOUT, "30 s", 1.5, 2
        ),
        '{"step":"a","attempt":2,"epoch":1,"kind":"error","error":"x","started_at":1.5,"at":2.5,"error_types":["E","Exception"],'
        '"usage":{"input_tokens":3},"cost_usd":0.5,"retry_after_s":7,"abandoned":true}': AttemptFailed(
            "a", 2, 1, FailureKind.ERROR, "x", 1.5, 2.5, ("E", "Exception"), Usage(3), 0.5, 7, True
        ),
    }

    for body, event in rows.items():
        assert decode("attempt_failed", 1, body, no_blobs) == event
        assert encode(event)[2] == body


def test_every_field_of_every_event_is_written_by_its_own_name() -> None:
    for event_type in EVENT_TYPES:
        required = [field.name for field in fields(event_type) if field.default is field.default_factory is MISSING]

        with pytest.raises(JournalFormatError, match=", ".join(sorted(required))):
            decode(kind_of(event_type), 1, "{}", no_blobs)


def kind_of(event_type: type[Any]) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in event_type.__name__).lstrip("_")

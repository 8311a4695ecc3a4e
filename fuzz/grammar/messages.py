"""What comes from elsewhere: rows of a journal, what workers say and are asked, answers of models, arguments."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fuzz.grammar.bombs import bombs
from fuzz.grammar.values import NUMBERS, SCALARS, TEXTS, VALUES, as_json_text
from planloom.core.commands import RunStep
from planloom.core.events import EVENT_TYPES, ToolFacts
from planloom.plan.model import Step
from planloom.plan.policy import Effects
from planloom.runtime.wire import JsonWire

WIRE = JsonWire()
_NAMES = st.sampled_from(("run_id", "at", "step", "attempt", "output", "usage", "plan", "inputs", "tools", "kind", "x"))
_EVENT_FIELDS = sorted({name for kind in EVENT_TYPES for name in kind.__dataclass_fields__})
_USAGE = st.dictionaries(st.sampled_from(("input_tokens", "output_tokens", "calls", "x")), NUMBERS, max_size=3)
_EVENT_VALUES = st.one_of(
    SCALARS, VALUES, _USAGE, st.sampled_from(({"t": {"digest": "d"}}, {"t": 1}, {"m": {}}, "completed", "success", "p"))
)
_KIND_NAMES = tuple(
    "".join(f"_{mark.lower()}" if mark.isupper() else mark for mark in kind.__name__).lstrip("_")
    for kind in EVENT_TYPES
)


@st.composite
def rows(draw: st.DrawFn) -> bytes:
    """Return a row of a journal: mostly all that its kind needs, some of it of the wrong type."""
    place = draw(st.integers(0, len(EVENT_TYPES) - 1))
    fields = EVENT_TYPES[place].__dataclass_fields__
    body = {
        name: draw(_EVENT_VALUES) if draw(st.integers(0, 5)) == 0 else _plain(str(fields[name].type)) for name in fields
    }
    for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=2)):
        body.pop(name, None)
    if "plan" in body and draw(st.booleans()):
        body["plan@blob"] = draw(st.sampled_from(("p", "x", "t", "n", "zz", 1)))
        body.pop("plan")
    if draw(st.integers(0, 9)) == 0:
        body[draw(st.one_of(st.sampled_from(_EVENT_FIELDS), TEXTS))] = draw(_EVENT_VALUES)
    version = draw(st.sampled_from(("1", "1", "1", "1", "2", "x", "")))
    return f"{_KIND_NAMES[place]} {version}\n".encode() + as_json_text(body)


def _plain(kind: str) -> Any:
    """Return a value of the type of an event's field."""
    known: dict[str, Any] = {"str": "a", "int": 1, "float": 1.5, "bool": True, "Any": {"x": 1}, "Plan": {"planloom": 1}}
    known |= {"FailureKind": "error", "Effects": "none", "RunStatus": "success", "StepStatus": "completed"}
    known |= {"SkipReason": "condition"}
    if kind in known:
        return known[kind]
    return None if kind.endswith("None") else [] if kind.startswith(("tuple", "list")) else {}


@st.composite
def facts(draw: st.DrawFn) -> bytes:
    """Return what a worker says came of an attempt."""
    head, _, body = draw(rows()).decode("utf-8", "surrogatepass").partition("\n")
    kind, _, version = head.partition(" ")
    number: Any = int(version) if version.isdigit() else draw(SCALARS)
    apart: Any = draw(st.sampled_from(({}, {}, {}, {"p": "{}"}, [], None)))
    return as_json_text([kind, number, body, apart, *draw(st.sampled_from(((), (), (), (1,))))])


_REQUEST = RunStep(
    run_id="r",
    key="a",
    step=Step(id="a", tool="t"),
    attempt=1,
    epoch=1,
    args={"x": 1},
    effects=Effects.NONE,
    after_durable=False,
    idempotency_key="k",
    tools={"t": ToolFacts("d")},
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return what a worker is asked to do."""
    asked = WIRE.request_out(_REQUEST, 100.0)
    for name in draw(st.lists(st.sampled_from(sorted(asked)), max_size=3)):
        asked[name] = draw(VALUES)
    return as_json_text(asked)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Return the bytes of a connection."""
    parts = []
    for body in draw(st.lists(st.one_of(st.builds(as_json_text, VALUES), st.binary(max_size=20), bombs()), max_size=4)):
        size = len(body) + draw(st.sampled_from((0, 0, 0, 0, 1, -1, 1 << 20, 1 << 31)))
        parts.append(max(0, size).to_bytes(4) + body)
    return b"".join(parts) + draw(st.binary(max_size=5))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Return what a model says when it is asked for a value."""
    said = draw(st.one_of(st.builds(as_json_text, st.one_of(ANSWERS, VALUES)), bombs()))
    before, behind = draw(st.sampled_from(((b"", b""), (b"```json\n", b"\n```"), (b"Sure: ", b""), (b"```\n", b"```"))))
    return before + said + behind


ANSWERS = st.fixed_dictionaries(
    {"name": st.sampled_from(("a", "abc", "A", ""))},
    optional={"count": NUMBERS, "of": st.lists(VALUES, max_size=3), "share": NUMBERS, "kind": SCALARS},
)
ARGS = st.fixed_dictionaries(
    {"to": st.one_of(st.lists(TEXTS, max_size=2), VALUES)},
    optional={"subject": TEXTS, "copies": NUMBERS, "share": NUMBERS, "more": VALUES, "x": VALUES},
)

"""What is fuzzed: each reader of text from outside, what it may refuse with, and what must hold of what it takes.

Rule 1: a target refuses an input with one of its documented errors and with no other, or does not take it (None).
Rule 2: of what it took it returns a check of everything that must hold of it; only the reading is held against the
clock.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fuzz import words
from planloom.agents.authority import Authority, Offered
from planloom.errors import (
    ArgumentsError,
    EvaluationError,
    ExpressionError,
    JournalFormatError,
    MissingValueError,
    OutputError,
    PlanError,
    ProtocolError,
)
from planloom.journal.codec import decode, encode
from planloom.models.structured import answer_value, problems_of
from planloom.plan.check import check_plan
from planloom.plan.document import decode as plan_text
from planloom.plan.english import read_english
from planloom.plan.expression import parse_expression
from planloom.plan.graph import compile_plan
from planloom.plan.load import load_plan, parse_plan
from planloom.plan.model import Plan
from planloom.plan.policy import ResourceLimits
from planloom.plan.refs import compile_template
from planloom.plan.schemas import schema_problem, value_problems
from planloom.plan.terms import STEP_FIELDS
from planloom.plan.values import as_json
from planloom.runtime.wire import JsonWire
from planloom.tools.catalogue import ToolCatalog
from planloom.tools.tool import Tool
from planloom.transport.frames import FrameChannel
from planloom.transport.plausible import check_plausible

__all__ = ["TARGETS", "BrokenLaw", "Target"]


class BrokenLaw(Exception):  # noqa: N818 - a finding, told as such
    """What was taken is not what it should be."""


Check = Callable[[], None]


def taken() -> None:
    """Look no further at what was taken."""


@dataclass(frozen=True, slots=True)
class Target:
    """One reader of text from outside.

    Attributes:
        reads: Reads an input; returns what looks at what was taken, or None where nothing was.
        refusals: All that it may raise.
        share: Its part of all inputs, in thousandths, for each engine: by grammar, by coverage.
        words: What its language is made of, for the engine that knows no grammar.
    """

    name: str
    reads: Callable[[bytes], Check | None]
    refusals: tuple[type[Exception], ...]
    share: tuple[int, int]
    words: tuple[str, ...]


def law(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenLaw(what)


def text_of(raw: bytes) -> str:
    """Return the input as text, half characters and all."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "replace")


def file_text(raw: bytes) -> str:
    """Return the input as the text of a file; bytes that are no text are left to the loader to refuse."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return plan_text(raw)


# --- plans ------------------------------------------------------------------------------------


def read_plan(raw: bytes) -> Check | None:
    """Load a plan; what was taken is the same plan after any way there and back, and compiles."""
    plan = parse_plan(file_text(raw))
    return lambda: check_loaded(plan)


def check_loaded(plan: Plan) -> None:
    document = plan.to_dict()
    law(Plan.from_dict(document) == plan, "from_dict(to_dict()) is another plan")
    law(load_plan(document) == plan, "load_plan(to_dict()) is another plan")
    again = parse_plan(plan.canonical_json)
    law(again == plan, "the plan read from its canonical JSON is another one")
    law(again.canonical_json == plan.canonical_json, "the canonical JSON is not stable")
    law(again.hash == plan.hash, "the hash is not stable")
    law(not check_plan(plan), "a loaded plan has problems after all")
    graph = compile_plan(plan)
    law(sorted(graph.order) == list(range(len(plan.steps))), "the compiled plan has not every step once")


def read_lettered(raw: bytes) -> Check | None:
    """Read lettered English lines, whether or not they look like it."""
    text = text_of(raw)
    if not text.strip():
        return None
    read_english(text)
    return taken


# --- expressions and references ---------------------------------------------------------------

INPUTS: dict[str, Any] = {
    **{"n": 5, "f": 2.5, "big": 10**400, "s": "Text é", "yes": True, "none": None, "7": "seven", "a-b": "dash"},
    **{"list": [1, "a", None, [2], True], "numbers": [3, 1.5, 2], "empty": [], "obj": {"a": 1, "b": {"c": [10]}}},
    **{"long": "x" * 20_000, "wide": list(range(1_000)), "deep": json.loads('[{"a":' * 90 + "1" + "}]" * 90)},
    **{"quotes": '"\\' * 500, "huge": -(10**4000), "tiny": 5e-324},
}
UNTOUCHED = json.dumps(INPUTS)
STEPS: tuple[dict[str, Any], ...] = (
    {"output": {"x": [1], "y": "z"}, "status": "completed", "error": None, "errors": [], "attempts": 2},
    {"output": None, "status": "failed", "error": "broke", "errors": ["broke"], "attempts": 1},
)


@dataclass(frozen=True, slots=True)
class Given:
    """What references see, one of several by the input's first byte."""

    inputs: Any
    step_of: Mapping[str, Any]

    def root(self, name: str) -> Any:
        if name == "inputs":
            return self.inputs
        if name == "run":
            return {"id": "r"}
        if name in ("item", "index") and self.inputs:
            return next(iter(self.inputs.values()))
        raise MissingValueError(f"there is no {name} here")

    def step(self, step_id: str, field: str) -> Any:
        if step_id not in ("a", "fetch", "s") or field not in STEP_FIELDS:
            raise MissingValueError(f"step {step_id!r} has no {field}")
        return self.step_of[field]


def given_by(raw: bytes) -> Given:
    mark = sum(raw[:64])
    return Given(INPUTS if mark % 16 else {}, STEPS[mark % len(STEPS)])


def read_expression(raw: bytes) -> Check | None:
    """Read an expression and work it out; what it gives is a JSON value, its own, and the same each time."""
    expression = parse_expression(text_of(raw))
    scope = given_by(raw)
    value = expression.evaluate(scope)

    def check() -> None:
        law(json.dumps(INPUTS) == UNTOUCHED, "working it out changed what it was given")
        check_worked_out(value, expression.evaluate(scope))
        law(parse_expression(expression.text).refs == expression.refs, "read again, it refers to something else")

    return check


def read_references(raw: bytes) -> Check | None:
    """Resolve the references in a text or, where the input is JSON, in any value."""
    text = text_of(raw)
    try:
        value = as_json(json.loads(text))
    except (ValueError, RecursionError, OutputError):
        value = text
    template = compile_template(value)
    scope = given_by(raw)
    resolved = template.resolve(scope)

    def check() -> None:
        check_worked_out(resolved, template.resolve(scope))
        inside = compile_template({"in": [value]})
        law(same(inside.resolve(scope), {"in": [resolved]}), "inside a list it comes to something else")
        if "${{" not in json.dumps(value):
            law(resolved == value, "a value without references did not stay as it is")

    return check


def check_worked_out(value: Any, again: Any) -> None:
    law(same(value, again), "worked out again, it is something else")
    law(value is not again or not isinstance(value, dict | list), "its value is shared")


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def read_schema(raw: bytes) -> Check | None:
    """Take a plan's JSON Schema, and hold values against it."""
    schema = parse_json(raw)
    if schema_problem(schema) is not None or not isinstance(schema, dict):
        return None
    for value in ("x", 5, 1.5, None, True, [1, "a"], {"a": 1, "b": [2]}):
        value_problems(value, schema, max_checks=20_000)
    return taken


def parse_json(raw: bytes) -> Any:
    try:
        return as_json(json.loads(text_of(raw)))
    except (ValueError, RecursionError) as error:
        raise OutputError(f"no JSON: {error}") from None


# --- the record, the link to workers, models, tools -------------------------------------------


def read_row(raw: bytes) -> Check | None:
    """Decode a row of a journal: its kind, a space, its version, a line break and its body."""
    head, _, body = text_of(raw).partition("\n")
    kind, _, version = head.partition(" ")
    number = int(version) if version.isdecimal() and len(version) < 5 else 1
    event = decode(kind, number, body, lambda sha256: blob(sha256))

    def check() -> None:
        written = encode(event)
        law(written[0] == kind, "written again, it is of another kind")
        again = decode(written[0], written[1], written[2], {one.sha256: one.text for one in written[3]}.__getitem__)
        law(encode(again) == written, "written again, it is something else")

    return check


def blob(sha256: Any) -> str:
    known = {"p": '{"planloom":1,"steps":[{"id":"a","tool":"t"}]}', "n": "null", "t": '"text"', "x": "{"}
    if sha256 not in known:
        raise JournalFormatError(f"there is no blob {sha256!r}")
    return known[sha256]


def read_frames(raw: bytes) -> Check | None:
    """Take the bytes of a connection in pieces; what is no frame ends the connection and raises nothing."""
    frames: list[Any] = []
    why: list[str] = []
    channel = FrameChannel(frames.append, why.append, max_bytes=1 << 16)
    link = Link(channel)
    channel.connection_made(link)
    for place in range(0, len(raw), 7):
        if not link.closed:
            channel.data_received(raw[place : place + 7])
    if link.closed:
        channel.connection_lost(None)
        law(len(why) == 1, "a closed connection was not told once")
    return taken if frames else None


class Link(asyncio.Transport):
    """The socket under a channel: nothing but whether it is closed."""

    def __init__(self, channel: FrameChannel) -> None:
        super().__init__()
        self.channel = channel
        self.closed = False

    def abort(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True


def read_request(raw: bytes) -> Check | None:
    """Take what a worker is asked to do."""
    request = WIRE.request_in(parse_json(raw), 100.0)
    return lambda: law(request.step.kind is not None, "a request without a step")


def read_fact(raw: bytes) -> Check | None:
    """Take what a worker says came of an attempt, as the engine does."""
    fact = WIRE.fact_in(parse_json(raw), 100.0)
    check_plausible(fact)

    def check() -> None:
        encode(fact)

    return check


WIRE = JsonWire()


def read_answer(raw: bytes) -> Check | None:
    """Take a model's answer as a value of a schema."""
    value = as_json(answer_value(text_of(raw)), where="the answer")
    return None if problems_of(value, SCHEMA) else taken


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 20},
        "count": {"type": "integer", "minimum": 0, "multipleOf": 5},
        "of": {"type": "array", "items": {"$ref": "#"}, "uniqueItems": True},
        "share": {"type": "number", "exclusiveMaximum": 1, "multipleOf": 0.01},
        "kind": {"enum": ["a", 1, None, [1]]},
    },
    "required": ["name"],
}


def read_arguments(raw: bytes) -> Check | None:
    """Hold arguments against a tool's own signature and against a foreign schema."""
    args = parse_json(raw)
    fits = 0
    for tool in TOOLS:
        try:
            tool.validate(args)
            fits += 1
        except ArgumentsError:
            continue
    return taken if fits else None


def _send(to: list[str], subject: str = "", *, copies: int = 1, share: float = 0.5, more: Any = None) -> None:
    """Stand for a tool; it is never called."""


TOOLS = (
    Tool.from_function(_send, name="mail.send"),
    Tool.from_schema("mail.foreign", lambda **_: None, SCHEMA),
    Tool.from_schema("mail.quiet", lambda **_: None, {"type": "object"}),
)


def read_model_answer(raw: bytes) -> Check | None:
    """Take a plan that a model wrote; it is bounded by what it was offered."""
    plan = AUTHORITY.read(text_of(raw))

    def check() -> None:
        check_loaded(plan)
        law(plan.allow is not None and set(plan.allow) <= set(AUTHORITY.offered.names()), "it allows itself a tool")
        calls = None if plan.limits is None else plan.limits.max_tool_calls
        law(calls is not None and calls <= MOST_CALLS, "it raises its own limit")

    return check


CATALOGUE = ToolCatalog.of(list(TOOLS))
MOST_CALLS = 20
AUTHORITY = Authority(
    offered=Offered(CATALOGUE, CATALOGUE.definitions()),
    inputs={"n": {"type": "integer"}, "list": {}},
    limits=ResourceLimits(max_tool_calls=MOST_CALLS),
)

# --- all of them ------------------------------------------------------------------------------

_PLAN = (PlanError,)
_EVALUATION = (ExpressionError, MissingValueError, EvaluationError)

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "plan",
            read_plan,
            _PLAN,
            (110, 250),
            words.FIELDS + words.JSON + words.YAML + words.REFERENCES + words.LINES,
        ),
        Target("lettered", read_lettered, _PLAN, (15, 70), words.LINES),
        Target("model_answer", read_model_answer, _PLAN, (20, 30), words.FIELDS + words.JSON + words.REFERENCES),
        Target(
            "expression",
            read_expression,
            _EVALUATION,
            (80, 160),
            words.WORDS,
        ),
        Target(
            "references",
            read_references,
            _EVALUATION,
            (40, 60),
            words.WORDS + words.REFERENCES,
        ),
        Target("schema", read_schema, (OutputError,), (15, 25), words.JSON),
        Target("row", read_row, (JournalFormatError,), (25, 40), words.EVENTS + words.JSON),
        Target("frames", read_frames, (), (10, 5), ("\0\0\0\x02", "{}", "\0\0\0\x04null", "\xff\xff")),
        Target("request", read_request, (ProtocolError, OutputError), (10, 0), words.JSON + words.FIELDS),
        Target("fact", read_fact, (ProtocolError, OutputError), (10, 0), words.JSON + words.EVENTS),
        Target("answer", read_answer, (OutputError,), (10, 5), ("```json\n", "\n```", *words.JSON)),
        Target("arguments", read_arguments, (OutputError,), (10, 0), words.JSON),
    )
}

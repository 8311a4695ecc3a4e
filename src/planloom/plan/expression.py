"""References and conditions: a tiny total language over JSON values.

    ${{ steps.extract.output.total > 0 and inputs.currency in ["EUR", "USD"] }}

Rule 1: reading never runs anything: no calls into Python, no attributes, no loops, no arithmetic; a fixed list of
functions.
Rule 2: what cannot be found is an error that names the step, the path and what is there. `default` and `exists` are
the only ways round it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any, NoReturn, Protocol

from planloom.errors import EvaluationError, ExpressionError, MissingValueError, suggestion

ROOTS = ("inputs", "steps", "item", "index", "run")
STEP_FIELDS = ("output", "status", "error", "errors", "attempts")
MAX_EXPRESSION = 4_000
"""Characters of one expression."""
MAX_DEPTH = 40
"""Nested brackets of one expression."""
MAX_TEXT = 16_000_000
"""Characters one text may grow to."""

Part = str | int


class Scope(Protocol):
    """What references see: the heart gives one per plan or sub-plan instance, and one per item."""

    def root(self, name: str) -> Any:
        """Return the value of `inputs`, `item`, `index` or `run`; raises MissingValueError."""
        ...

    def step(self, step_id: str, field: str) -> Any:
        """Return one of STEP_FIELDS of a step; raises MissingValueError where it has none."""
        ...


def fresh(value: Any) -> Any:
    """Return the JSON value with every container copied."""
    if type(value) is dict:
        return {key: fresh(entry) for key, entry in value.items()}
    if type(value) is list:
        return [fresh(entry) for entry in value]
    return value


def as_text(value: Any) -> str:
    """Return text as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def truthy(value: Any) -> bool:
    """Return False for null, false, 0, "", [] and {}."""
    return bool(value)


# --- the tree of an expression ----------------------------------------------------------------


class Term(Protocol):
    def evaluate(self, scope: Scope) -> Any: ...


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any

    def evaluate(self, scope: Scope) -> Any:
        return self.value


@dataclass(frozen=True, slots=True)
class Ref:
    """A typed reference. For root `steps`, `path` begins with the step's id and the field."""

    root: str
    path: tuple[Part, ...] = ()

    def __str__(self) -> str:
        return self.root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)

    def evaluate(self, scope: Scope) -> Any:
        if self.root == "steps":
            value = scope.step(self.path[0], self.path[1])  # type: ignore[arg-type]  # the parser made both text
            rest = self.path[2:]
        else:
            value = scope.root(self.root)
            rest = self.path
        for part in rest:
            if type(value) is dict:
                key = part if part in value else str(part)
                if key not in value:
                    self._missing(part, value)
                value = value[key]
            elif type(value) is list and isinstance(part, int) and -len(value) <= part < len(value):
                value = value[part]
            else:
                self._missing(part, value)
        return value

    def _missing(self, part: Part, found: Any) -> NoReturn:
        there: str
        if isinstance(found, dict):
            there = f"the keys there are {', '.join(sorted(found)[:20])}" if found else "it is an empty object"
            remedy = suggestion(str(part), found)
        elif isinstance(found, list):
            there = f"there is a list of {len(found)}"
            remedy = f"use an index from 0 to {len(found) - 1}" if found else "check for an empty list with `len`"
        else:
            there = f"there is {as_text(found)[:60]}, which has no parts"
            remedy = "refer to the value itself"
        raise MissingValueError(
            f"{self} leads nowhere: no {part!r}; {there}",
            remedy=f"{remedy or 'check the spelling'}, or give a fallback: default({self}, …)",
            reference=str(self),
        )


@dataclass(frozen=True, slots=True)
class Not:
    inner: Term

    def evaluate(self, scope: Scope) -> Any:
        return not truthy(self.inner.evaluate(scope))


@dataclass(frozen=True, slots=True)
class AndOr:
    is_and: bool
    sides: tuple[Term, ...]

    def evaluate(self, scope: Scope) -> Any:
        if self.is_and:
            return all(truthy(side.evaluate(scope)) for side in self.sides)
        return any(truthy(side.evaluate(scope)) for side in self.sides)


@dataclass(frozen=True, slots=True)
class Listing:
    entries: tuple[Term, ...]

    def evaluate(self, scope: Scope) -> Any:
        return [entry.evaluate(scope) for entry in self.entries]


@dataclass(frozen=True, slots=True)
class Comparison:
    left: Term
    sign: str
    right: Term

    def evaluate(self, scope: Scope) -> Any:
        left, right = self.left.evaluate(scope), self.right.evaluate(scope)
        if self.sign in ("==", "!="):
            return _same(left, right) is (self.sign == "==")
        if self.sign in ("in", "not in"):
            return _contains(right, left) is (self.sign == "in")
        if not _ordered(left, right):
            raise EvaluationError(
                f"cannot compare {_kind(left)} {self.sign} {_kind(right)}",
                remedy="compare numbers with numbers and text with text; number(…) turns text into a number",
            )
        if self.sign == "<":
            return left < right
        if self.sign == "<=":
            return left <= right
        return left > right if self.sign == ">" else left >= right


@dataclass(frozen=True, slots=True)
class FunctionCall:
    name: str
    arguments: tuple[Term, ...]

    def evaluate(self, scope: Scope) -> Any:
        if self.name in ("default", "exists"):
            try:
                value = self.arguments[0].evaluate(scope)
            except MissingValueError:
                return self.arguments[1].evaluate(scope) if self.name == "default" else False
            return value if self.name == "default" else True
        values = [argument.evaluate(scope) for argument in self.arguments]
        try:
            return FUNCTIONS[self.name][0](*values)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            given = ", ".join(_kind(value) for value in values)
            raise EvaluationError(
                f"{self.name}({given}) cannot be worked out: {error}", remedy=f"see {FUNCTIONS[self.name][2]}"
            ) from None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true/false", int: "number", float: "number", str: "text", list: "list", dict: "object"}
    return names.get(type(value), type(value).__name__)


def _same(left: Any, right: Any) -> bool:
    """Return whether two JSON values are equal. Python says True == 1, also inside lists; JSON does not."""
    pairs = [(left, right)]
    while pairs:
        one, other = pairs.pop()
        if isinstance(one, bool) is not isinstance(other, bool):
            return False
        if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            pairs.extend(zip(one, other, strict=True))
        elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            pairs.extend((one[key], other[key]) for key in one)
        elif one != other:
            return False
    return True


def _ordered(left: Any, right: Any) -> bool:
    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    return (number(left) and number(right)) or (isinstance(left, str) and isinstance(right, str))


def _contains(container: Any, value: Any) -> bool:
    if isinstance(container, str):
        return isinstance(value, str) and value in container
    if isinstance(container, dict):
        return value in container if isinstance(value, str) else False
    if isinstance(container, list):
        return any(_same(entry, value) for entry in container)
    raise EvaluationError(f"cannot look inside {_kind(container)}", remedy="use `in` with a list, an object or a text")


def _number(value: Any) -> int | float:
    if isinstance(value, str):
        text = value.strip()
        if len(text) > 400:
            raise ValueError("too long for a number")
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else _finite(float(text))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise TypeError("not a number")


def _finite(value: float) -> float:
    if not isfinite(value):
        raise ValueError("not a finite number")
    return value


def _join(values: list[Any], separator: str = "") -> str:
    joined = separator.join(as_text(value) for value in values)
    if len(joined) > MAX_TEXT:
        raise ValueError(f"text over {MAX_TEXT} characters")
    return joined


def _sized(value: Any) -> int:
    if isinstance(value, str | list | dict):
        return len(value)
    raise TypeError("has no length")


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[int, int], str]] = {
    "default": (lambda value, other: value, (2, 2), "default(reference, fallback): the fallback if it leads nowhere"),
    "exists": (lambda value: True, (1, 1), "exists(reference): whether it leads somewhere"),
    "len": (_sized, (1, 1), "len(text, list or object)"),
    "lower": (lambda text: str.lower(text), (1, 1), "lower(text)"),
    "upper": (lambda text: str.upper(text), (1, 1), "upper(text)"),
    "trim": (lambda text: str.strip(text), (1, 1), "trim(text): without space at both ends"),
    "contains": (_contains, (2, 2), "contains(list, object or text; value)"),
    "starts_with": (lambda text, start: str.startswith(text, start), (2, 2), "starts_with(text, start)"),
    "ends_with": (lambda text, end: str.endswith(text, end), (2, 2), "ends_with(text, end)"),
    "number": (_number, (1, 1), "number(text)"),
    "text": (as_text, (1, 1), "text(value)"),
    "json": (lambda value: json.dumps(value, ensure_ascii=False), (1, 1), "json(value): as JSON, text in quotes"),
    "round": (lambda value, digits=None: round(_number(value), digits), (1, 2), "round(number, digits)"),
    "abs": (lambda value: abs(_number(value)), (1, 1), "abs(number)"),
    "min": (lambda values: min(map(_number, values)), (1, 1), "min(list of numbers)"),
    "max": (lambda values: max(map(_number, values)), (1, 1), "max(list of numbers)"),
    "sum": (lambda values: _finite(sum(map(_number, values))), (1, 1), "sum(list of numbers)"),
    "all": (lambda values: all(map(truthy, list(values))), (1, 1), "all(list)"),
    "any": (lambda values: any(map(truthy, list(values))), (1, 1), "any(list)"),
    "keys": (lambda value: list(dict.keys(value)), (1, 1), "keys(object)"),
    "values": (lambda value: list(dict.values(value)), (1, 1), "values(object)"),
    "first": (lambda values: list.__getitem__(values, 0) if values else None, (1, 1), "first(list): null if empty"),
    "last": (lambda values: list.__getitem__(values, -1) if values else None, (1, 1), "last(list): null if empty"),
    "join": (_join, (1, 2), "join(list, separator)"),
    "split": (lambda text, separator: str.split(text, separator), (2, 2), "split(text, separator)"),
}
"""Name → (what it does, fewest and most arguments, how it is written)."""


# --- reading an expression --------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<name>[A-Za-z_]\w*)
    | (?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
    | (?P<dot>\.\s*[\w][\w-]*)
    )""",
    re.VERBOSE,
)
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


class _Reader:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._split(text))
        self.place = 0
        self.depth = 0
        self.refs: list[Ref] = []

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        place = 0
        end = len(text.rstrip())
        while place < end:
            match = _TOKEN.match(text, place)
            if match is None:
                self.refuse(f"{text[place:].strip()[:20]!r} is not part of the language")
            yield str(match.lastgroup), match.group(str(match.lastgroup))
            place = match.end()

    def refuse(self, why: str, *, remedy: str = "") -> NoReturn:
        raise ExpressionError(
            f"cannot read {self.text.strip()[:120]!r}: {why}",
            remedy=remedy
            or "use paths such as steps.fetch.output.url, comparisons, and/or/not, in, and the "
            f"functions {', '.join(FUNCTIONS)}",
        )

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "")

    def take(self, *wanted: str) -> bool:
        kind, text = self.peek()
        if kind in ("sign", "name") and text in wanted:
            self.place += 1
            return True
        return False

    def whole(self) -> Term:
        if not self.tokens:
            self.refuse("it is empty")
        node = self.either()
        if self.place < len(self.tokens):
            self.refuse(f"unexpected {self.peek()[1].strip()!r}")
        return node

    def either(self) -> Term:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(f"nested more than {MAX_DEPTH} deep")
        sides = [self.both()]
        while self.take("or"):
            sides.append(self.both())
        self.depth -= 1
        return sides[0] if len(sides) == 1 else AndOr(False, tuple(sides))

    def both(self) -> Term:
        sides = [self.negation()]
        while self.take("and"):
            sides.append(self.negation())
        return sides[0] if len(sides) == 1 else AndOr(True, tuple(sides))

    def negation(self) -> Term:
        count = 0
        while self.take("not"):
            count += 1
        node = self.comparison()
        if count and count % 2 == 0:
            return Not(Not(node))  # true or false, not the value itself
        return Not(node) if count else node

    def comparison(self) -> Term:
        left = self.primary()
        kind, text = self.peek()
        if kind == "sign" and text in ("==", "!=", "<", "<=", ">", ">="):
            self.place += 1
            return Comparison(left, text, self.primary())
        if self.take("in"):
            return Comparison(left, "in", self.primary())
        if kind == "name" and text == "not" and self.tokens[self.place + 1 : self.place + 2] == [("name", "in")]:
            self.place += 2
            return Comparison(left, "not in", self.primary())
        return left

    def primary(self) -> Term:
        kind, text = self.peek()
        self.place += 1
        if kind == "number":
            return Literal(self.number(text))
        if kind == "text":
            return Literal(self.quoted(text))
        if kind == "sign" and text == "(":
            inner = self.either()
            self.expect(")")
            return inner
        if kind == "sign" and text == "[":
            return Listing(self.listed("]"))
        if kind == "name":
            if text in _WORDS:
                return Literal(_WORDS[text])
            if self.take("("):
                return self.call(text)
            return self.reference(text)
        return self.refuse(f"a value is missing before {text.strip()!r}" if text else "it ends too early")

    def number(self, text: str) -> int | float:
        if len(text) > 400:
            self.refuse("a number of over 400 characters")
        return int(text) if re.fullmatch(r"-?\d+", text) else _finite_or(self, float(text))

    def quoted(self, text: str) -> str:
        inner = text[1:-1]
        if text[0] == "'":
            inner = inner.replace("\\'", "'").replace('"', '\\"')
        try:
            read: str = json.loads(f'"{inner}"', strict=False)
        except ValueError:
            self.refuse(f"{text[:20]} is not a text", remedy="write \\\\ for a backslash")
        return read

    def listed(self, end: str) -> tuple[Term, ...]:
        entries: list[Term] = []
        while not self.take(end):
            entries.append(self.either())
            if not self.take(","):
                self.expect(end)
                break
        return tuple(entries)

    def expect(self, sign: str) -> None:
        if not self.take(sign):
            self.refuse(f"{sign!r} is missing")

    def call(self, name: str) -> Term:
        if name not in FUNCTIONS:
            self.refuse(f"there is no function {name!r}", remedy=suggestion(name, FUNCTIONS))
        arguments = self.listed(")")
        fewest, most = FUNCTIONS[name][1]
        if not fewest <= len(arguments) <= most:
            self.refuse(f"{name} takes {fewest if fewest == most else f'{fewest} to {most}'} arguments")
        return FunctionCall(name, arguments)

    def reference(self, root: str) -> Ref:
        path: list[Part] = []
        while True:
            kind, text = self.peek()
            if kind == "dot":
                self.place += 1
                path.append(text[1:].strip())
            elif kind == "sign" and text == "[":
                self.place += 1
                path.append(self.key())
            else:
                break
        root = "inputs" if root == "context" else root
        if root not in ROOTS:
            self.refuse(
                f"{root!r} is not known here",
                remedy=f"begin with one of {', '.join(ROOTS)}, e.g. inputs.{root} or steps.{root}.output",
            )
        if root == "steps":
            self.step_path(path)
        ref = Ref(root, tuple(path))
        self.refs.append(ref)
        return ref

    def key(self) -> Part:
        kind, text = self.peek()
        self.place += 1
        if kind == "number" and re.fullmatch(r"-?\d{1,15}", text):
            key: Part = int(text)
        elif kind == "text":
            key = self.quoted(text)
        else:
            self.refuse("only a whole number or a text may stand between [ and ]")
        self.expect("]")
        return key

    def step_path(self, path: list[Part]) -> None:
        if not path:
            self.refuse("a step's id is missing", remedy="write steps.ID.output")
        path[0] = str(path[0])
        if len(path) == 1:
            path.append("output")
        elif path[1] not in STEP_FIELDS:
            rest = "".join(f".{part}" for part in path[1:])
            self.refuse(
                f"a step has no {path[1]!r}",
                remedy=f"write steps.{path[0]}.output{rest}, or one of the fields {', '.join(STEP_FIELDS)}",
            )


def _finite_or(reader: _Reader, value: float) -> float:
    try:
        return _finite(value)
    except ValueError:
        reader.refuse("a number too large")


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression.

    Attributes:
        text: As it was written.
        refs: Every reference in it.
    """

    text: str
    node: Term
    refs: tuple[Ref, ...]

    def evaluate(self, scope: Scope) -> Any:
        """Return its value, fresh.

        Raises:
            MissingValueError: A reference leads nowhere.
            EvaluationError: An operator or function cannot be applied to what it is given.
        """
        return fresh(self.node.evaluate(scope))


def parse_expression(text: str) -> Expression:
    """Read an expression, with or without its ``${{ }}``.

    Raises:
        ExpressionError: Says what cannot be read and what the language has.
    """
    inner = text.strip()
    if inner.startswith("${{") and inner.endswith("}}") and end_of_reference(inner, 3) == len(inner) - 2:
        inner = inner[3:-2]
    if len(inner) > MAX_EXPRESSION:
        raise ExpressionError(f"an expression of {len(inner)} characters", remedy=f"keep it under {MAX_EXPRESSION}")
    reader = _Reader(inner)
    node = reader.whole()
    return Expression(text, node, tuple(reader.refs))


def end_of_reference(text: str, start: int) -> int:
    """Return where the ``}}`` of the reference that began before `start` is, or -1; quoted text does not count."""
    quote = ""
    place = start
    while place < len(text):
        mark = text[place]
        if quote:
            if mark == "\\":
                place += 1
            elif mark == quote:
                quote = ""
        elif mark in "\"'":
            quote = mark
        elif text.startswith("}}", place):
            return place
        place += 1
    return -1

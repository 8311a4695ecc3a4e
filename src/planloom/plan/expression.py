"""Conditions and references: a tiny total language over JSON values.

    ${{ steps.extract.output.total > 0 and inputs.currency in ["EUR", "USD"] }}

Rule 1: reading never runs anything: it makes terms (`terms.py`), bounded in length and depth, or says why it cannot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from planloom.errors import ExpressionError, suggestion
from planloom.plan.terms import (
    FUNCTIONS,
    MAKING,
    ROOTS,
    STEP_FIELDS,
    AndOr,
    Bounded,
    Comparison,
    FunctionCall,
    Listing,
    Literal,
    Not,
    Part,
    Ref,
    Scope,
    Term,
    finite,
    fresh,
)

MAX_EXPRESSION = 4_000
"""Characters of one expression."""
MAX_DEPTH = 40
"""Nested brackets of one expression."""

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
        self.making = 0

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
            read.encode()
        except UnicodeEncodeError:
            self.refuse(f"{text[:20]!a} holds half of a surrogate pair", remedy="write the character itself")
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
        self.making += name in MAKING
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
        return finite(value)
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
    if reader.making > 1:
        node = Bounded(node)
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

"""References inside values: any JSON value whose texts may hold ``${{ … }}``.

Rule 1: a lone reference keeps its type; inside a longer text it becomes text.
Rule 2: every value handed out is a fresh copy, so that no step can change what another one recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from planloom.errors import EvaluationError, ExpressionError
from planloom.plan.expression import end_of_reference, parse_expression
from planloom.plan.terms import MAX_TEXT, Bounded, Listing, Literal, Part, Ref, Scope, Term, as_text, fresh


@dataclass(frozen=True, slots=True)
class _Text:
    parts: tuple[Term, ...]

    def evaluate(self, scope: Scope) -> str:
        text = "".join([as_text(part.evaluate(scope)) for part in self.parts])
        if len(text) > MAX_TEXT:
            raise EvaluationError(f"a text of over {MAX_TEXT} characters", remedy="refer to smaller values")
        return text


@dataclass(frozen=True, slots=True)
class _Fresh:
    value: Any

    def evaluate(self, scope: Scope) -> Any:
        return fresh(self.value)


@dataclass(frozen=True, slots=True)
class _Lone:
    node: Term

    def evaluate(self, scope: Scope) -> Any:
        return fresh(self.node.evaluate(scope))


@dataclass(frozen=True, slots=True)
class _Object:
    entries: tuple[tuple[str, Term], ...]

    def evaluate(self, scope: Scope) -> Any:
        return {key: node.evaluate(scope) for key, node in self.entries}


@dataclass(frozen=True, slots=True)
class Template:
    """A JSON value with references inside.

    Attributes:
        refs: Every reference in it.
        constant: True when nothing in it is worked out.
    """

    node: Term
    refs: tuple[Ref, ...]

    @property
    def constant(self) -> bool:
        return isinstance(self.node, Literal | _Fresh)

    def parts(self) -> dict[str, Template] | None:
        """Return the entries of an object as templates of their own, or None for any other value."""
        node = self.node.inner if isinstance(self.node, Bounded) else self.node
        if not isinstance(node, _Object):
            return None
        return {key: Template(entry, self.refs) for key, entry in node.entries}

    def resolve(self, scope: Scope) -> Any:
        """Return the value with every reference replaced, fresh. Raises as `Expression.evaluate`."""
        return self.node.evaluate(scope)


def compile_template(value: Any) -> Template:
    """Read the references in a JSON value; ``$${{`` stands for the text ``${{``.

    Raises:
        ExpressionError: With `path` leading to the text that cannot be read.
    """
    refs: list[Ref] = []
    bounded: list[Bounded] = []
    node = _template_node(value, (), refs, bounded)
    return Template(Bounded(node) if len(bounded) > 1 else node, tuple(refs))


def _template_node(value: Any, path: tuple[Part, ...], refs: list[Ref], bounded: list[Bounded]) -> Term:
    node: Term
    if isinstance(value, str):
        return _template_text(value, path, refs, bounded) if "${{" in value else Literal(value)
    if isinstance(value, dict):
        entries = tuple(
            (str(key), _template_node(entry, (*path, str(key)), refs, bounded)) for key, entry in value.items()
        )
        node = _Object(entries)
    elif isinstance(value, list | tuple):
        node = Listing(tuple(_template_node(entry, (*path, at), refs, bounded) for at, entry in enumerate(value)))
    else:
        return Literal(value)
    return node if any("${{" in text for text in _texts(value)) else _Fresh(value)


def _texts(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        entry = stack.pop()
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, Mapping):
            stack.extend(entry.values())
        elif isinstance(entry, list | tuple):
            stack.extend(entry)


def _template_text(text: str, path: tuple[Part, ...], refs: list[Ref], bounded: list[Bounded]) -> Term:
    parts: list[Term] = []
    place = 0
    while (start := text.find("${{", place)) != -1:
        if start > 0 and text[start - 1] == "$":
            parts.append(Literal(text[place : start - 1] + "${{"))
            place = start + 3
            continue
        end = end_of_reference(text, start + 3)
        if end == -1:
            raise ExpressionError(
                f"'}}}}' is missing in {text[:80]!r}",
                remedy="close the reference, or write $${{ for the text",
                path=path,
            )
        try:
            expression = parse_expression(text[start + 3 : end])
        except ExpressionError as error:
            raise ExpressionError(error.message, remedy=error.remedy, path=path) from None
        refs.extend(expression.refs)
        if isinstance(expression.node, Bounded):
            bounded.append(expression.node)
        if start == 0 and end + 2 == len(text):
            return _Lone(expression.node)
        if start > place:
            parts.append(Literal(text[place:start]))
        parts.append(expression.node)
        place = end + 2
    if place < len(text):
        parts.append(Literal(text[place:]))
    return _Text(tuple(parts))

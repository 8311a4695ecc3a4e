"""YAML 1.2 text → JSON value, with the place of every part.

Rule 1: the parser's events only, never its constructors: a tag can name no class, and nothing recurses.
Rule 2: scalars by the core schema of YAML 1.2: `on`, `no` and `2026-12-01` are text, `010` is ten.
Rule 3: an alias counts as everything it stands for, and all of them together may stand for no more than `MAX_ALIASED`
values, so a small text cannot become a large plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from planloom.errors import PlanSyntaxError
from planloom.plan.document import MAX_DEPTH, MAX_NODES, MAX_NUMBER, Path, Place, Positions, place_at, refuse

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser where PyYAML was built with it
_TAG = "tag:yaml.org,2002:"
MAX_ALIASED = 20_000
"""Values that all aliases of a text may stand for."""
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMBER_START = frozenset("0123456789+-.")

_REMEDIES = (
    ("cannot start any token", "indent with spaces, not tabs; put a text that begins with @, ` or % in quotes"),
    ("mapping values are not allowed", "put a text that holds ': ' in quotes, and check the indentation"),
    ("could not find expected ':'", "write `name: value`, with a space behind the colon"),
    ("quoted scalar", "close the quote"),
    ("did not find expected", "check indentation and brackets: what belongs together begins in the same column"),
)


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        PlanSyntaxError: Not YAML, not one document, a doubled key, a tag, or over a cap; with its line and column.
    """
    return _Builder(text, None).value()


def yaml_positions(text: str) -> Positions:
    """Return where the parts of a text stand; as far as it can be read."""
    positions = Positions()
    with suppress(PlanSyntaxError):  # JSON that is no YAML: the places found so far are the best there is
        _Builder(text, positions).value()
    return positions


@dataclass(slots=True)
class _Open:
    """A list or mapping that is being read."""

    container: dict[str, Any] | list[Any]
    path: Path
    anchor: str | None
    nodes_before: int
    height: int = 1
    key: str | None = None
    key_places: dict[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Anchored:
    value: Any
    nodes: int
    height: int


class _Builder:
    def __init__(self, text: str, positions: Positions | None) -> None:
        self.text = text
        self.positions = positions
        self.open: list[_Open] = []
        self.anchors: dict[str, _Anchored | None] = {}
        self.nodes = 0
        self.aliased = 0
        self.documents = 0
        self.root: Any = None

    def value(self) -> Any:
        for event in self.events():
            if isinstance(event, yaml.ScalarEvent):
                self.scalar(event)
            elif isinstance(event, yaml.MappingStartEvent):
                self.start(event, {})
            elif isinstance(event, yaml.SequenceStartEvent):
                self.start(event, [])
            elif isinstance(event, yaml.CollectionEndEvent):
                self.end()
            elif isinstance(event, yaml.AliasEvent):
                self.alias(event)
            elif isinstance(event, yaml.DocumentStartEvent):
                self.document(event)
        if not self.documents:
            refuse("the plan is empty", "write at least `steps:` and one step below it", (1, 1))
        return self.root

    def events(self) -> Iterator[Any]:
        try:
            yield from yaml.parse(self.text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.not_yaml(error, (mark.line + 1, mark.column + 1) if mark else (1, 1))
        except yaml.YAMLError as error:
            at = getattr(error, "position", 0)
            name = f"character U+{ord(self.text[at]):04X}" if at < len(self.text) else "a character"
            refuse(
                f"{name} is not allowed in YAML",
                "remove it, or write it as an escape in quotes",
                place_at(self.text[:at]),
            )

    def not_yaml(self, error: yaml.MarkedYAMLError, place: Place) -> NoReturn:
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        remedy = next((remedy for part, remedy in _REMEDIES if part in problem), "check the YAML at that place")
        lines = self.text.splitlines()
        around = "".join(lines[max(0, place[0] - 2) : place[0]])
        if "${{" in around and "{" in around.replace("${{", ""):
            remedy = "put ${{ … }} in quotes where it stands inside { } or [ ]"
        refuse(f"this is not YAML: {problem}", remedy, place)

    def document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            refuse("the text holds several YAML documents", "keep one plan in one file", _place(event))
        if event.version not in (None, (1, 2)):
            refuse("plans are read as YAML 1.2", "take the %YAML line out", _place(event))

    # --- events ---

    def scalar(self, event: Any) -> None:
        self.count(1, event)
        if self.wants_key():
            self.key(_scalar(event), event)
            return
        value = _scalar(event)
        if event.anchor:
            self.anchors[event.anchor] = _Anchored(value, 1, 0)
        self.add(value, event)

    def start(self, event: Any, container: dict[str, Any] | list[Any]) -> None:
        if self.wants_key():
            refuse("a key is a list or mapping", "keys are text; put it in quotes", _place(event))
        expected = "map" if isinstance(container, dict) else "seq"
        if event.tag not in (None, "!", _TAG + expected):
            _refuse_tag(event)
        if len(self.open) >= MAX_DEPTH:
            refuse(f"values are nested over {MAX_DEPTH} deep", "write something flatter", _place(event))
        path = self.add(container, event)
        if event.anchor:
            self.anchors[event.anchor] = None  # not to be used before it is complete
        self.open.append(_Open(container, path, event.anchor, self.nodes))
        self.count(1, event)

    def end(self) -> None:
        closed = self.open.pop()
        if self.open:
            self.open[-1].height = max(self.open[-1].height, closed.height + 1)
        if closed.anchor:
            self.anchors[closed.anchor] = _Anchored(closed.container, self.nodes - closed.nodes_before, closed.height)

    def alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            refuse(
                f"*{event.anchor} names no anchor", f"write &{event.anchor} at the value it stands for", _place(event)
            )
        anchored = self.anchors[event.anchor]
        if anchored is None:
            refuse(f"*{event.anchor} stands inside itself", "write the value out", _place(event))
        self.count(anchored.nodes, event)
        self.aliased += anchored.nodes
        if self.aliased > MAX_ALIASED:
            refuse(f"aliases stand for over {MAX_ALIASED:,} values", "give large values as inputs", _place(event))
        if len(self.open) + anchored.height > MAX_DEPTH:
            refuse(f"values are nested over {MAX_DEPTH} deep", "write something flatter", _place(event))
        if self.wants_key():
            self.key(anchored.value, event)
            return
        if self.open:
            self.open[-1].height = max(self.open[-1].height, anchored.height + 1)
        self.add(anchored.value, event)  # shared until `fields.py` reads it, through JSON, into a plan

    # --- building ---

    def wants_key(self) -> bool:
        return bool(self.open) and self.open[-1].key is None and isinstance(self.open[-1].container, dict)

    def key(self, key: Any, event: Any) -> None:
        here = self.open[-1]
        place = _place(event)
        if not isinstance(key, str):
            shown = getattr(event, "value", key)
            refuse(f"key {shown} is not text", f'put it in quotes: "{shown}"', place)
        if key == "<<" and not getattr(event, "style", None):
            refuse("merge keys (<<) are not part of YAML 1.2", "write the fields out", place)
        if key in here.key_places:
            first = here.key_places[key]
            refuse(
                f"key {key!r} stands twice in one mapping, first on line {first[0]}",
                "keep one of them",
                place,
                first_line=first[0],
            )
        here.key_places[key] = place
        here.key = key

    def add(self, value: Any, event: Any) -> Path:
        if not self.open:
            self.root = value
            path: Path = ()
        else:
            here = self.open[-1]
            if isinstance(here.container, dict):
                name: str | int = here.key or ""
                here.container[str(name)] = value
                here.key = None
            else:
                name = len(here.container)
                here.container.append(value)
            path = (*here.path, name) if self.positions is not None else ()
            if self.positions is not None and name in here.key_places:
                self.positions.keys[path] = here.key_places[str(name)]
        if self.positions is not None:
            self.positions.values[path] = _place(event)
        return path

    def count(self, nodes: int, event: Any) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            refuse(
                f"the plan has over {MAX_NODES:,} values, aliases counted each time",
                "give large values as inputs, and repeat less with aliases",
                _place(event),
            )


def _place(event: Any) -> Place:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _refuse_tag(event: Any) -> NoReturn:
    shown = event.tag.replace(_TAG, "!!")
    refuse(
        f"tag {shown} is not allowed", "take it out: a plan holds only text, numbers, lists and mappings", _place(event)
    )


def _scalar(event: Any) -> Any:
    tag, text = event.tag, event.value
    if tag is None:
        return _plain(text, event) if event.implicit[0] else text
    if tag in ("!", _TAG + "str"):
        return text
    if tag not in (_TAG + "int", _TAG + "float", _TAG + "bool", _TAG + "null"):
        _refuse_tag(event)
    value = _plain(text, event)
    if tag == _TAG + "float" and type(value) is int:
        return float(value)
    if type(value) is not {"int": int, "float": float, "bool": bool, "null": type(None)}[tag.removeprefix(_TAG)]:
        refuse(f"{text[:40]!r} is not a {tag.removeprefix(_TAG)}", "take the tag out", _place(event))
    return value


def _plain(text: str, event: Any) -> Any:
    """Return the value of an unquoted scalar by the core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START:
        return text
    is_int = _INT.fullmatch(text)
    if is_int or _FLOAT.fullmatch(text):
        if len(text) > MAX_NUMBER:
            refuse(f"a number of {len(text)} characters", "write it as text, in quotes", _place(event))
        if is_int:
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        value = float(text)
        if value not in (float("inf"), float("-inf")):
            return value
        refuse(f"the number {text[:40]} is too large", "write it as text, in quotes", _place(event))
    if _NOT_FINITE.fullmatch(text):
        refuse(f"{text} is not a number that JSON has", "use null, or put it in quotes", _place(event))
    return text

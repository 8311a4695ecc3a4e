"""An event as a row (kind, format version, JSON text, large values) and back.

Rule 1: what is written here is read for ever. A changed event gets a higher version and a step in `decode`.
Rule 2: a field equal to its default is left out; an unknown kind, version or field is refused, never skipped.
Rule 3: a field stored apart is written under `<field>@blob`. Field names are ours, so no user's value looks like one.
Rule 4: only JSON goes in: no NaN, no infinity, nothing that would come back as another type of object.
Rule 5: `encode` runs for every event of every run. What can be worked out once per class is (`_Layout`).
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import MISSING, dataclass, fields
from json import encoder
from operator import attrgetter, call
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic_core import from_json

from planloom.core.events import EVENT_TYPES, AgentFacts, Event, ToolFacts
from planloom.core.prices import ModelFacts
from planloom.core.result import RunStatus, SkipReason, StepStatus, Usage
from planloom.errors import FieldError, JournalDamagedError, JournalFormatError, OutputError
from planloom.journal.blobs import INLINE_LIMIT_BYTES, Blob, blob_of, is_large
from planloom.plan.flow import FlowPolicy
from planloom.plan.model import Plan
from planloom.plan.policy import Effects, FailureKind, ResourceLimits

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import StrEnum

Encoded = tuple[str, int, str, tuple[Blob, ...]]
"""Kind, format version, JSON text, values stored apart. A bare tuple: this is the hot path."""

_VERSIONS: dict[str, int] = {}
"""Format version of kinds that have had more than one; every other kind is at 1."""
_BLOB_MARK = "@blob"
_ALWAYS = 0
_NEVER = sys.maxsize
_PERHAPS = INLINE_LIMIT_BYTES // 4
"""Characters: a text this short is not large, whatever is in it; only longer ones are measured."""
_SURROGATES = re.compile("[\ud800-\udfff]")
_UPGRADE = "read this journal with the planloom that wrote it, or a newer one"
_RESTORE = "restore the journal from a backup"


def encode(event: Event) -> Encoded:
    """Return the event as kind, format version, JSON text and the values that are stored apart.

    Raises:
        OutputError: A value in it is not JSON: NaN, infinity, a circle, or a Python object.
    """
    layout = _LAYOUTS[type(event)]
    values = layout.values(event)
    names = layout.required
    try:
        texts = list(map(call, layout.writers, values))  # only the required ones: there are no more writers
        if values[len(texts) :] == layout.defaults:
            body = layout.template % tuple(texts)
        else:
            names, texts = _with_optional(layout, values, texts)
            body = _object(names, texts)
    except (TypeError, ValueError, RecursionError) as error:
        raise OutputError(
            f"{layout.kind} holds something that is not JSON: {error}",
            remedy="use only None, bool, int, finite float, str, list and dict with text keys",
        ) from error
    if len(body) > layout.apart_above:
        return _apart(layout, names, texts)
    return layout.kind, layout.version, _storable(body), ()


def _with_optional(layout: _Layout, values: tuple[Any, ...], texts: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return names and texts of the required fields and of those that differ from their defaults."""
    names = layout.required
    for default, value, (name, form) in zip(layout.defaults, values[len(texts) :], layout.optional, strict=True):
        if value is not default and value != default:
            names = (*names, name)
            texts.append(form.write(value))
    return names, texts


def _object(names: tuple[str, ...], texts: list[str]) -> str:
    return "{" + ",".join(f'"{name}":{text}' for name, text in zip(names, texts, strict=True)) + "}"


def _apart(layout: _Layout, names: tuple[str, ...], texts: list[str]) -> Encoded:
    """Return the event with its large values stored apart."""
    blobs: list[Blob] = []
    keys: list[str] = []
    for place, name in enumerate(names):
        text = texts[place]
        apart_above = layout.forms[name].apart_above
        large = len(text) > apart_above and (apart_above == _ALWAYS or is_large(text))
        if large:
            blobs.append(blob_of(_storable(text)))
            texts[place] = f'"{blobs[-1].sha256}"'
        keys.append(name + _BLOB_MARK if large else name)
    return layout.kind, layout.version, _storable(_object(tuple(keys), texts)), tuple(blobs)


def decode(kind: str, version: int, body: str, blob_text: Callable[[str], str]) -> Event:
    """Return the event of a row; `blob_text` gives the text stored under a SHA-256.

    Raises:
        JournalFormatError: Unknown kind, newer version, unknown or missing field, or not what was written.
    """
    layout = _BY_KIND.get(kind)
    if layout is None:
        raise JournalFormatError(f"this planloom knows no event {kind!r}", remedy=_UPGRADE)
    if version != layout.version:
        raise JournalFormatError(
            f"event {kind!r} is of format {version}; this planloom reads {layout.version}", remedy=_UPGRADE
        )
    document = _parsed(body, kind)
    if not isinstance(document, dict):
        raise JournalDamagedError(f"event {kind!r} is damaged: its body is not an object", remedy=_RESTORE)
    found: dict[str, Any] = {}
    for key, stored in document.items():
        name = key.removesuffix(_BLOB_MARK)
        form = layout.forms.get(name)
        if form is None or name in found or (name != key and form.apart_above == _NEVER):
            raise JournalFormatError(
                f"event {kind!r} has a field this planloom does not know: {key!r}", remedy=_UPGRADE
            )
        value = stored if name == key else _parsed(blob_text(stored), f"{kind}.{name}")
        try:
            found[name] = form.read(value)
        except (TypeError, ValueError) as error:
            raise JournalDamagedError(f"event {kind!r} is damaged: {name}: {error}", remedy=_RESTORE) from error
    if not found.keys() >= layout.needed:
        missing = ", ".join(sorted(layout.needed - found.keys()))
        raise JournalDamagedError(f"event {kind!r} is damaged: it has no {missing}", remedy=_RESTORE)
    event: Event = layout.event_type(**found)
    return event


# --- JSON -------------------------------------------------------------------------------------


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _parsed(text: str, what: str) -> Any:
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError:
        pass  # the fast parser is stricter than JSON about depth and lone surrogates: the other one decides
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise JournalDamagedError(f"event {what!r} is damaged: {error}", remedy=_RESTORE) from error


def _storable(text: str) -> str:
    """Return the JSON text with lone surrogates escaped, which UTF-8 cannot hold."""
    if text.isascii():
        return text
    return _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _json_writer() -> Callable[[Any], str]:
    """Return `json`'s own encoder, made once: `JSONEncoder.encode` makes a new one for each value, half its time."""
    strict = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:
        return strict.encode
    chunks = make(None, strict.default, encoder.encode_basestring, None, ":", ",", False, False, False)

    def write(value: Any) -> str:
        return "".join(chunks(value, 0))

    return write


_write_json = _json_writer()
_write_text = encoder.encode_basestring
_write_integer = int.__repr__


def _write_number(value: float) -> str:
    if type(value) is int:
        return int.__repr__(value)
    if value - value != 0:  # NaN and infinity, at half the price of two calls into math
        raise ValueError(f"{value} is not JSON")
    return float.__repr__(value)


def _write_flag(value: bool) -> str:
    return "true" if value else "false"


def _write_plan(plan: Plan) -> str:
    return plan.canonical_json


def _write_limits(limits: ResourceLimits) -> str:
    return _write_json(limits.model_dump(mode="json", exclude_unset=True))


def _flat(value: Usage | ToolFacts | AgentFacts) -> dict[str, Any]:
    """Return the fields of a nested value that differ from their defaults."""
    return {
        field.name: content
        for field in fields(value)
        if (content := getattr(value, field.name)) != field.default or field.default is MISSING
    }


def _write_flow(policy: FlowPolicy) -> str:
    return _write_json(policy.model_dump(mode="json"))  # whole: what is not said today may be said otherwise tomorrow


def _write_usage(usage: Usage) -> str:
    return _write_json(_flat(usage))


def _write_facts(known: dict[str, ToolFacts] | dict[str, AgentFacts]) -> str:
    return _write_json({name: _flat(facts) for name, facts in known.items()})


def _write_models(models: dict[str, ModelFacts]) -> str:
    return _write_json({name: facts.to_dict() for name, facts in models.items()})


def _read_as(*types: type) -> Callable[[Any], Any]:
    wanted = " or ".join(kind.__name__ for kind in types)

    def read(value: Any) -> Any:
        if type(value) not in types:
            raise TypeError(f"{value!r:.60} is not {wanted}")
        return value

    return read


_read_text = _read_as(str)
_read_list = _read_as(list)
_read_object = _read_as(dict)


def _read_any(value: Any) -> Any:
    return value


def _read_tuple(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: tuple(read(entry) for entry in _read_list(value))


_read_names = _read_tuple(_read_text)


def _read_plan(value: Any) -> Plan:
    try:
        return Plan.from_dict(value)
    except FieldError as error:
        raise ValueError(error.message) from error


def _read_limits(value: Any) -> ResourceLimits:
    return ResourceLimits(**_read_object(value))


def _read_flow(value: Any) -> FlowPolicy:
    return FlowPolicy(**_read_object(value))


def _read_usage(value: Any) -> Usage:
    return Usage(**_read_object(value))


def _read_facts(of: type[Any]) -> Callable[[Any], dict[str, Any]]:
    def read(value: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, told in _read_object(value).items():
            facts = dict(_read_object(told))
            effects = facts.pop("effects", None)
            # Labels are their only lists.
            rest = {key: _read_names(entry) if isinstance(entry, list) else entry for key, entry in facts.items()}
            found[name] = of(**rest, effects=None if effects is None else Effects(effects))
        return found

    return read


def _read_models(value: Any) -> dict[str, ModelFacts]:
    return {name: ModelFacts.from_dict(_read_object(facts)) for name, facts in _read_object(value).items()}


# --- one layout per event ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Form:
    """How the values of one type are written and read."""

    write: Callable[[Any], str]
    read: Callable[[Any], Any]
    apart_above: int = _NEVER
    """Characters from which the text is, or may be, stored apart."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the events of one class are written and read."""

    event_type: type[Any]
    kind: str
    version: int
    values: Callable[[Any], tuple[Any, ...]]
    """All fields of an event at once, in their order: the required ones are first, as Python demands."""
    required: tuple[str, ...]
    writers: tuple[Callable[[Any], str], ...]
    """Of the required fields."""
    template: str
    """The JSON of an event with nothing but its required fields, a ``%s`` for each."""
    optional: tuple[tuple[str, _Form], ...]
    defaults: tuple[Any, ...]
    """Of the optional fields."""
    apart_above: int
    """Characters of the whole from which one of its values is, or may be, to be stored apart."""
    needed: frozenset[str]
    """The required fields once more, for reading."""
    forms: dict[str, _Form]


def _or_none(form: _Form) -> _Form:
    """Return the form for a value that may also be None, where None is not the default."""
    return _Form(
        lambda value: "null" if value is None else form.write(value),
        lambda value: None if value is None else form.read(value),
        form.apart_above,
    )


def _enum(values: type[StrEnum]) -> _Form:
    return _Form(_write_text, values)


_TEXT = _Form(_write_text, _read_text)
_NUMBER = _Form(_write_number, _read_as(float, int))
_OBJECT = _Form(_write_json, _read_object, _PERHAPS)
_NAMES = _Form(_write_json, _read_names)
_FORMS: dict[str, _Form] = {
    "str": _TEXT,
    "str | None": _or_none(_TEXT),
    "int": _Form(_write_integer, _read_as(int)),
    "float": _NUMBER,
    "float | None": _or_none(_NUMBER),
    "bool": _Form(_write_flag, _read_as(bool)),
    "Any": _Form(_write_json, _read_any, _PERHAPS),
    "list[Any]": _Form(_write_json, _read_list, _PERHAPS),
    "dict[str, Any]": _OBJECT,
    "dict[str, Any] | None": _or_none(_OBJECT),
    "tuple[dict[str, Any], ...]": _Form(_write_json, _read_tuple(_read_object), _PERHAPS),
    "tuple[str, ...]": _NAMES,
    "tuple[str, ...] | None": _or_none(_NAMES),
    "Usage | None": _or_none(_Form(_write_usage, _read_usage)),
    "dict[str, ToolFacts]": _Form(_write_facts, _read_facts(ToolFacts), _PERHAPS),
    "dict[str, AgentFacts]": _Form(_write_facts, _read_facts(AgentFacts), _PERHAPS),
    "dict[str, ModelFacts]": _Form(_write_models, _read_models, _PERHAPS),
    "ResourceLimits | None": _or_none(_Form(_write_limits, _read_limits)),
    "FlowPolicy | None": _or_none(_Form(_write_flow, _read_flow)),
    "Plan": _Form(_write_plan, _read_plan, _ALWAYS),
    "FailureKind": _enum(FailureKind),
    "Effects": _enum(Effects),
    "RunStatus": _enum(RunStatus),
    "StepStatus": _enum(StepStatus),
    "SkipReason": _enum(SkipReason),
}
"""By the annotation of a field, as events.py writes it. A field of a new type fails here, when this is imported."""


def _values_of(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what reads an event's fields; `attrgetter` of one name alone would give a lone value."""
    if len(names) > 1:
        return attrgetter(*names)
    one = attrgetter(*names)
    return lambda event: (one(event),)


def _layout(event_type: type[Any]) -> _Layout:
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", event_type.__name__).lower()
    forms = {field.name: _FORMS[str(field.type)] for field in fields(event_type)}
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(event_type)
    }
    required = tuple(name for name, default in defaults.items() if default is MISSING)
    return _Layout(
        event_type=event_type,
        kind=kind,
        version=_VERSIONS.get(kind, 1),
        values=_values_of(tuple(forms)),
        required=required,
        writers=tuple(forms[name].write for name in required),
        template=_object(required, ["%s"] * len(required)),
        optional=tuple((name, form) for name, form in forms.items() if name not in required),
        defaults=tuple(default for default in defaults.values() if default is not MISSING),
        apart_above=min(form.apart_above for form in forms.values()),
        needed=frozenset(required),
        forms=forms,
    )


_LAYOUTS: dict[type[Any], _Layout] = {event_type: _layout(event_type) for event_type in EVENT_TYPES}
_BY_KIND: dict[str, _Layout] = {layout.kind: layout for layout in _LAYOUTS.values()}

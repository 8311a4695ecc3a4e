"""Every event that whoever follows a cluster hears, as an AsyncAPI 3.0 document.

Rule 1: what an event holds is worked out from the class of its entry in the record; a field of a type unknown here, or
a type of event without a word about it, fails when the page is drawn.
Rule 2: a document says what is there, and forbids nothing that may come: readers leave out fields they do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any

from planloom import __version__
from planloom.core import events
from planloom.core.result import RunStatus, SkipReason, StepStatus, Usage
from planloom.plan.policy import Effects, FailureKind
from planloom.transport import events_out
from planloom.transport.event import MEDIA_TYPE, SEQUENCE_DIGITS
from planloom.transport.events_out import ATTEMPT, DEAD_LETTER, DENIED, REFUSED, RUN, STEP, topics
from planloom.transport.nats.subjects import ROOT
from scripts.reference.source import field_notes

ABOUT: Mapping[str, str] = {
    RUN + "started": "A run began: a plan with its inputs. The plan itself is in the journal.",
    RUN + "resumed": "The run goes on after a pause, or after its engine died.",
    RUN + "stopping": "From here nothing new starts; the run ends with this status.",
    RUN + "finished": "The run has ended. Nothing of it comes after this, but what is about its steps.",
    RUN + "cancel_requested": "Somebody asked the run to stop.",
    RUN + "pause_requested": "Somebody asked that nothing new start.",
    RUN + "went_on": "The run goes on with what it had yet to decide.",
    RUN + "timer_fired": "The time of the whole run is over.",
    REFUSED: "A submission did not become a run. It is on no record and has no sequence.",
    STEP + "requested": "An attempt of a step may start.",
    STEP + "started": "A step began: once for each step, whatever number of attempts it takes.",
    STEP + "completed": "A step has ended well.",
    STEP + "failed": "A step has ended otherwise: it failed, took too long or was cancelled.",
    STEP + "skipped": "A step has ended without being done.",
    STEP + "dead_letter": "A step failed for good; with all that was tried.",
    STEP + "approval_requested": "A step waits for a person's word.",
    STEP + "approval_answered": "A person answered.",
    STEP + "answer_refused": "An answer came too late, or for something else; it changed nothing.",
    STEP + "timer_fired": "What a step waited for in time has come.",
    STEP + "outcome_unknown": "Nobody knows whether a step's effect happened: a person is asked.",
    STEP + "resolved": "A person said what came of a step whose outcome was unknown.",
    STEP + "retry_scheduled": "The next attempt starts later.",
    STEP + "replan_requested": "A failed step asks for a plan that does its job another way.",
    STEP + "replanned": "The step is now a plan of its own.",
    STEP + "speculated": "A step runs ahead, or a cheaper model guesses its answer.",
    STEP + "speculation_settled": "What came of that.",
    ATTEMPT + "succeeded": "An attempt ended well, and its step goes on: it has items, or is judged.",
    ATTEMPT + "failed": "An attempt failed. Whether it is tried again, later events say.",
    ATTEMPT + "waiting": "An attempt waits for something that is no work of its own.",
    ATTEMPT + "streamed": "The next piece of what an attempt answers.",
    ATTEMPT + "ran_ahead": "A draft, or an attempt that ran ahead, has ended.",
    ATTEMPT + "refused": "A result came that nobody waits for any more; it changed nothing.",
    ATTEMPT + "call_started": "An attempt is about to make a call that has an effect.",
    ATTEMPT + "call_ended": "What a call inside an attempt came to.",
    "planloom.tool.circuit_changed": "A tool's circuit breaker moved.",
    DENIED: "Somebody asked for what it may not do.",
}
_TEXT, _NUMBER, _WHOLE, _FLAG, _LIST, _OBJECT = (
    {"type": name} for name in ("string", "number", "integer", "boolean", "array", "object")
)
_TEXTS = {"type": "array", "items": _TEXT}
_PLAN = {"type": "object", "required": ["name", "hash"], "properties": {"name": _TEXT, "hash": _TEXT}}


def _either(*schemas: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [*schemas]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return _either(schema, {"type": "null"})


def _one_of(values: type[StrEnum]) -> dict[str, Any]:
    return {"type": "string", "enum": [value.value for value in values]}


_TOKENS = {"type": "object", "properties": {field.name: _WHOLE for field in fields(Usage)}}
_TYPES: Mapping[str, dict[str, Any]] = {
    "str": _TEXT,
    "int": _WHOLE,
    "float": _NUMBER,
    "bool": _FLAG,
    "Any": {},
    "list[Any]": _LIST,
    "dict[str, Any]": _OBJECT,
    "tuple[dict[str, Any], ...]": {"type": "array", "items": _OBJECT},
    "tuple[str, ...]": _TEXTS,
    "Usage": _TOKENS,
    "Plan": _PLAN,
    "FailureKind": _one_of(FailureKind),
    "Effects": _one_of(Effects),
    "RunStatus": _one_of(RunStatus),
    "StepStatus": _one_of(StepStatus),
    "SkipReason": _one_of(SkipReason),
}
_NOT_TOLD = ("step", "at")
"""Fields that are the event's own `subject` and `time`."""
_STANDS = {
    "status": _one_of(StepStatus),
    "attempts": {**_WHOLE, "description": "How many it took."},
    "started_at": _or_null(_NUMBER),
    "ended_at": _or_null(_NUMBER),
}
_WHY = {
    "reason": {**_one_of(SkipReason), "description": "Of one that was not done."},
    "because": {**_TEXT, "description": "The step or condition behind the reason."},
}
_ENDS: Mapping[str, tuple[type[Any], ...]] = {
    STEP + "completed": (events.AttemptSucceeded, events.StepSucceeded),
    STEP + "failed": (events.StepFailed,),
    STEP + "skipped": (events.StepSkipped,),
}
"""By how a step ends: the entries that say so."""


def document() -> dict[str, Any]:
    """Return the document."""
    types = sorted({*topics(), REFUSED})
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "planloom: events of a cluster's runs",
            "version": __version__,
            "license": {"name": "Apache-2.0"},
            "description": (
                "What agents tell over NATS of every run, as CloudEvents 1.0 in structured JSON. An event follows from"
                " an entry of its run's record, whose number is its `sequence`: the first is 1, none is left out, and"
                " an entry has one event of its own, with the id RUN/SEQUENCE, and perhaps others that follow from it."
                " The same event has the same `source` and `id` whoever tells it. News may get lost, and the record"
                " does not: whoever needs every event reads what it missed from the journal, by sequence."
                " `planloom tail RUN --json` does so."
            ),
        },
        "defaultContentType": MEDIA_TYPE,
        "servers": {
            "broker": {
                "host": "{host}:{port}",
                "protocol": "nats",
                "description": "The cluster's NATS. Credentials of submitters and of agents may follow.",
                "variables": {"host": {"default": "127.0.0.1"}, "port": {"default": "4222"}},
            }
        },
        "channels": {name: _channel(name) for name in types},
        "operations": {
            f"tell.{name}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{name}"},
                "summary": ABOUT[name],
                "messages": [{"$ref": f"#/channels/{name}/messages/event"}],
            }
            for name in types
        },
        "components": {
            "messages": {name: _message(name) for name in types},
            "parameters": {
                "run": {
                    "description": (
                        "The run's id; each character but letters, digits, `_` and `-` as `=` and its bytes in"
                        " hexadecimal. `*` follows all runs."
                    )
                }
            },
            "schemas": {"event": _envelope()},
        },
    }


def _channel(name: str) -> dict[str, Any]:
    return {
        "address": f"{ROOT}.evt.{{run}}.{name}",
        "messages": {"event": {"$ref": f"#/components/messages/{name}"}},
        "parameters": {"run": {"$ref": "#/components/parameters/run"}},
    }


def _message(name: str) -> dict[str, Any]:
    required = ["data"] if name == REFUSED else ["data", "sequence"]
    if name.startswith((STEP, ATTEMPT)):
        required.append("subject")
    return {
        "name": name,
        "title": name,
        "summary": ABOUT[name],
        "contentType": MEDIA_TYPE,
        "correlationId": {"location": "$message.payload#/correlationid"},
        "payload": {
            "allOf": [{"$ref": "#/components/schemas/event"}],
            "type": "object",
            "required": required,
            "properties": {"type": {"const": name}, "data": _data(name)},
        },
    }


def _envelope() -> dict[str, Any]:
    text = {"type": "string", "minLength": 1}
    return {
        "type": "object",
        "required": ["specversion", "id", "source", "type", "time", "correlationid", "datacontenttype", "data"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {**text, "description": "Unique with its source, and the same whenever the event is told again."},
            "source": {**text, "format": "uri-reference", "description": "Whose event it is: /planloom/runs/RUN."},
            "type": text,
            "subject": {
                **text,
                "description": "Key of the step: its id, `map[3]` for an item, `sub/extract` inside one.",
            },
            "time": {"type": "string", "format": "date-time", "description": "When it happened."},
            "correlationid": {**text, "description": "The run's id."},
            "causationid": {
                **text,
                "description": "Id of the event that led to it; left out for what came from outside.",
            },
            "sequence": {
                "type": "string",
                "pattern": rf"^[0-9]{{{SEQUENCE_DIGITS},}}$",
                "description": "Number of the entry of the run's record, padded so that it compares as text.",
            },
            "entryevents": {
                "type": "integer",
                "minimum": 2,
                "description": "How many events follow from that entry, this one among them; left out: this one alone.",
            },
            "datacontenttype": {"const": "application/json"},
            "data": {"type": "object"},
        },
    }


def _data(name: str) -> dict[str, Any]:
    """Return what the data of an event of this type may be."""
    kinds = [kind for kind, topic in events_out._TOPICS.items() if topic == name]
    if name in _ENDS:
        outcome = {"output": {}} if name == STEP + "completed" else {"error": _or_null(_TEXT)}
        stands = _STANDS | outcome
        own = [{**_fields(kind), **stands} for kind in _ENDS[name]]
        return _either(*(_filled(found, _WHY) for found in own), _filled(stands, _WHY))
    if name == STEP + "started":
        return _either(*(_filled(_fields(kind)) for kind in kinds), {"type": "object", "maxProperties": 0})
    if name == RUN + "started":
        return _filled(_of_start())
    if name == DENIED:
        who = _filled({"module": _TEXT, "run": _TEXT, "step": _TEXT})
        return _filled({"who": who, "what": _or_null(_TEXT), "why": _TEXT})
    if name == DEAD_LETTER:
        return _filled(_of_letter())
    if name == REFUSED:
        return _filled({"code": _TEXT, "message": _TEXT, "request": _TEXT}, {"remedy": _TEXT})
    if name == RUN + "timer_fired":
        kinds = [events.TimerFired]
    return _either(*(_filled(_fields(kind)) for kind in kinds)) if len(kinds) > 1 else _filled(_fields(kinds[0]))


def _filled(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}


def _fields(kind: type[Any]) -> dict[str, Any]:
    notes = field_notes(kind)
    return {
        field.name: _described(_schema(str(field.type)), notes.get(field.name, ""))
        for field in fields(kind)
        if field.name not in _NOT_TOLD
    }


def _schema(written: str) -> dict[str, Any]:
    """Return the schema of a field by its annotation, as events.py writes it."""
    plain = written.removesuffix(" | None")
    return _TYPES[plain] if plain == written else _or_null(_TYPES[plain])


def _described(schema: dict[str, Any], note: str) -> dict[str, Any]:
    return {**schema, "description": note} if note else schema


def _of_start() -> dict[str, Any]:
    notes = field_notes(events.RunStarted)
    told = {
        "plan": {**_TEXT, "description": "Its name."},
        "plan_hash": {**_TEXT, "description": "SHA-256 of the plan."},
        "steps": {**_TEXTS, "description": "Ids of its steps."},
        "inputs": _OBJECT,
        "module": _TEXT,
        "allow": _or_null(_TEXTS),
        "engine": _TEXT,
        "from_run": _or_null(_TEXT),
    }
    return {name: {"description": notes[name], **schema} if name in notes else schema for name, schema in told.items()}


def _of_letter() -> dict[str, Any]:
    entry = _filled({"seq": _WHOLE, "event": _TEXT, "at": _NUMBER}) | {"additionalProperties": True}
    return {
        "plan": _TEXT,
        "module": _TEXT,
        "step": _TEXT,
        "does": {**_TEXT, "description": "The tool, model or agent."},
        "status": _one_of(StepStatus),
        "attempts": _WHOLE,
        "error": _or_null(_TEXT),
        "error_kind": _or_null(_one_of(FailureKind)),
        "tolerated": {**_FLAG, "description": "Whether the run goes on without it."},
        "history": {
            "type": "array",
            "items": entry,
            "description": "What was tried: entries with all their fields.",
        },
    }

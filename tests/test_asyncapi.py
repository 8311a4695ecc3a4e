"""The AsyncAPI document is one, and every event there is fits what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from planloom.core import events as record
from planloom.errors import PlanError
from planloom.transport.event import Event
from planloom.transport.events_out import REFUSED, RunEvents, refused, source_of, topics
from planloom.transport.nats import subjects
from scripts.reference.__main__ import EVENTS, FOLDER
from scripts.reference.asyncapi import ABOUT
from tests.journals.recording import read

HERE = Path(__file__).parent
RECORDINGS = sorted((HERE / "journals").glob("v*/*.jsonl"))
MANY = 150
"""Events of a wide run, from both ends, that are enough: those between are all alike."""
DOCUMENT: dict[str, Any] = json.loads((FOLDER / EVENTS).read_text())


def strict(schema: Any) -> Any:
    """Return a schema that lets nothing through that it does not name: nothing is told that the document hides."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return closed | {name: strict(value) for name, value in schema.items()}


@pytest.fixture(scope="module")
def judges() -> dict[str, list[jsonschema.Draft202012Validator]]:
    """Return, for each type, what judges its whole event, and what judges its data closely."""
    found = {}
    for name, message in DOCUMENT["components"]["messages"].items():
        payload = message["payload"] | {"components": DOCUMENT["components"]}
        close = {"properties": {"data": strict(message["payload"]["properties"]["data"])}}
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        found[name] = [jsonschema.Draft202012Validator(one, format_checker=checker) for one in (payload, close)]
    return found


def told(run_id: str, path: Path) -> list[Event]:
    run = RunEvents(run_id, source=source_of(run_id))
    found = [event for entry in read(path) for event in run.of(entry)]
    return found if len(found) < 2 * MANY else found[:MANY] + found[-MANY:]


def test_it_is_a_document_of_asyncapi_3() -> None:
    schema = json.loads((HERE / "schemas/asyncapi-3.0.0.json").read_text())

    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(DOCUMENT)] == []


def test_every_type_of_event_has_a_channel_at_its_own_subject() -> None:
    types = topics() | {REFUSED}

    assert set(DOCUMENT["channels"]) == set(DOCUMENT["components"]["messages"]) == set(ABOUT) == types
    for name in types:
        address = DOCUMENT["channels"][name]["address"]
        assert address.replace("{run}", subjects.token("a.b")) == subjects.news("a.b", name)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_event_of_a_recorded_run_fits(
    path: Path, judges: dict[str, list[jsonschema.Draft202012Validator]]
) -> None:
    for event in told("a/1", path):
        one = json.loads(json.dumps(event.to_dict()))
        for judge in judges[event.type]:
            wrong = [f"{list(error.absolute_path)}: {error.message}" for error in judge.iter_errors(one)]
            assert wrong == [], one


def test_a_refusal_fits(judges: dict[str, list[jsonschema.Draft202012Validator]]) -> None:
    one = refused("r", "0" * 64, PlanError("there is no tool", remedy="name one").to_dict(), 1.5).to_dict()

    for judge in judges[REFUSED]:
        judge.validate(one)


def test_the_recordings_hold_nearly_every_entry_there_is() -> None:
    entries = {type(entry.event) for path in RECORDINGS for entry in read(path)}

    assert {kind.__name__ for kind in set(record.EVENT_TYPES) - entries} <= {"WentOn", "AnswerRefused", "ResultRefused"}

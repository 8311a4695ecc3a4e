"""Who may signal may say what people say, each thing under its own name, and nothing that an attempt came to."""

from __future__ import annotations

import pytest

from planloom.core.events import (
    ApprovalAnswered,
    AttemptSucceeded,
    CancelRequested,
    Fact,
    PauseRequested,
    RunResumed,
    StepResolved,
    TimerFired,
)
from planloom.errors import ProtocolError
from planloom.plan.model import Plan
from planloom.runtime.cluster import bodies
from planloom.runtime.cluster.inputs import SIGNALS, PersonSaid
from planloom.runtime.wire import JsonWire
from planloom.transport.nats import subjects
from tests.runtime.shared_world import Cluster
from tests.runtime.test_cluster_turns import NO_FAULTS

FORGED = AttemptSucceeded("a", 1, 1, "forged", 1_000.0, 1_000.0)
SAID: dict[str, Fact] = {
    "approve": ApprovalAnswered("a", True, "Ann", 5.0),
    "resolve": StepResolved("a", "retry", "Ann", 5.0, None, None, 1),
    "cancel": CancelRequested("Ann", 5.0, ""),
    "pause": PauseRequested("Ann", 5.0),
    "resume": RunResumed(0, 5.0),
}


def signal(name: str, fact: Fact) -> PersonSaid:
    body = bodies.signal_body("run-1", fact, JsonWire())
    return bodies.read_signal(subjects.signal("run-1", name), body, JsonWire(), 5.0)


@pytest.mark.parametrize("name", SIGNALS)
def test_what_people_say_is_read_under_its_name(name: str) -> None:
    assert signal(name, SAID[name]).fact == SAID[name]


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("approve", FORGED),
        ("resume", TimerFired("a", 5.0)),
        ("cancel", SAID["approve"]),
        ("approve", SAID["cancel"]),
        ("anything", SAID["cancel"]),
    ],
    ids=["an outcome", "a timer", "an approval as a cancel", "a cancel as an approval", "no name"],
)
def test_nothing_else_is_read(name: str, fact: Fact) -> None:
    with pytest.raises(ProtocolError):
        signal(name, fact)


def test_an_outcome_that_is_said_as_people_say_things_counts_for_nothing() -> None:
    cluster = Cluster(1, NO_FAULTS)
    cluster.submit("run-1", Plan.from_dict({"name": "p", "steps": [{"id": "a", "tool": "t"}]}))
    for hundredths in range(60):
        cluster.later(hundredths / 100, lambda: cluster._input(PersonSaid("run-1", FORGED)))

    cluster.run()

    outputs = [getattr(one.event, "output", None) for one in cluster.table.rows["run-1"].record]
    assert "of a" in outputs
    assert "forged" not in outputs

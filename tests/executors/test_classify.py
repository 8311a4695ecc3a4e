"""What kind of failure an error is, and with it whether another attempt could mend it."""

from __future__ import annotations

import pytest

from planloom.errors import (
    ConfigError,
    MissingKeyError,
    PlanloomError,
    PlanningError,
    UnknownFieldError,
    UnknownModelError,
    UnknownPriceError,
)
from planloom.executors.classify import kind_of, text_of
from planloom.plan.policy import FailureKind


@pytest.mark.parametrize(
    "kind",
    [ConfigError, MissingKeyError, UnknownFieldError, UnknownModelError, UnknownPriceError, PlanningError],
)
def test_what_only_a_person_can_mend_is_not_tried_again(kind: type[PlanloomError]) -> None:
    assert kind_of(kind("it is not set up")) is FailureKind.REFUSED


def test_what_this_process_was_given_as_a_key_is_in_no_text_that_goes_on_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_SERVICE_API_KEY", "sk-nobody-may-read-this")

    told = text_of(ConnectionError("401 for sk-nobody-may-read-this at the door"))

    assert "sk-nobody" not in told
    assert told.startswith("ConnectionError: 401 for ")
    assert told.endswith(" at the door")

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
from planloom.executors.classify import kind_of
from planloom.plan.policy import FailureKind


@pytest.mark.parametrize(
    "kind",
    [ConfigError, MissingKeyError, UnknownFieldError, UnknownModelError, UnknownPriceError, PlanningError],
)
def test_what_only_a_person_can_mend_is_not_tried_again(kind: type[PlanloomError]) -> None:
    assert kind_of(kind("it is not set up")) is FailureKind.REFUSED

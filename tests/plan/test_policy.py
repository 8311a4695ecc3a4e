"""Retries and limits as values: defaults, doors, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from planloom.errors import ConfigError, UnknownFieldError
from planloom.plan.policy import NO_RETRY, ApprovePolicy, ResourceLimits, RetryPolicy, WaitPolicy


def test_the_defaults_of_a_retry_policy() -> None:
    policy = RetryPolicy()

    assert (policy.max_attempts, policy.initial_delay, policy.max_delay) == (3, 1.0, 60.0)
    assert (policy.exponential_base, policy.jitter) == (2.0, True)
    assert NO_RETRY.max_attempts == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"initial_delay": -1},
        {"max_delay": -1},
        {"exponential_base": 0.5},
        {"initial_delay": float("nan")},
        {"max_delay": float("inf")},
        {"zzz": 1},
    ],
    ids=str,
)
def test_a52_a_policy_that_makes_no_sense_is_a_value_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        RetryPolicy(**fields)


def test_exceptions_may_be_given_as_classes_or_by_name() -> None:
    assert RetryPolicy(retryable_exceptions=(TimeoutError, "OSError")).retryable_exceptions == (  # type: ignore[arg-type]
        "TimeoutError",
        "OSError",
    )
    with pytest.raises(ValidationError):
        RetryPolicy(retryable_exceptions="OSError")  # type: ignore[arg-type]  # that is what is tried


def test_the_defaults_of_limits() -> None:
    limits = ResourceLimits()

    assert limits.model_dump() == {
        "timeout_seconds": 30.0,
        "max_tool_calls": 100,
        "max_concurrent": 5,
        "max_total_cost_usd": 10.0,
        "max_total_tokens": None,
        "max_memory_mb": 512.0,
        "max_cpu_percent": 50.0,
    }


def test_c16_max_duration_is_another_name_for_timeout_seconds() -> None:
    assert ResourceLimits(max_duration=5).timeout_seconds == 5
    assert ResourceLimits(max_duration=5, timeout_seconds=7).timeout_seconds == 7


def test_c16_an_unknown_limit_is_a_type_error_that_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match="ResourceLimits has no 'max_calls', 'zzz'") as caught:
        ResourceLimits(zzz=1, max_calls=2)

    assert isinstance(caught.value, UnknownFieldError | ConfigError)
    assert "max_tool_calls" in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout_seconds": 0},
        {"timeout_seconds": float("nan")},
        {"max_tool_calls": -1},
        {"max_concurrent": 0},
        {"max_total_cost_usd": -0.1},
        {"max_total_cost_usd": float("inf")},
        {"max_total_tokens": -1},
        {"max_memory_mb": 0},
        {"max_cpu_percent": 0},
    ],
    ids=str,
)
def test_a_limit_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResourceLimits(**fields)


def test_a_limit_may_be_lifted_and_what_was_chosen_is_known() -> None:
    limits = ResourceLimits(max_memory_mb=None, max_tool_calls=0)

    assert limits.max_memory_mb is None
    assert limits.model_fields_set == {"max_memory_mb", "max_tool_calls"}


def test_policies_are_frozen() -> None:
    with pytest.raises(ValidationError):
        RetryPolicy().max_attempts = 9  # type: ignore[misc]  # that is what is tried


def test_an_approval_may_expire_and_a_wait_may_be_worked_out() -> None:
    assert ApprovePolicy(message="Go?", expires_seconds=1).expires_seconds == 1
    with pytest.raises(ValidationError):
        ApprovePolicy(message="Go?", expires_seconds=0)
    assert WaitPolicy(seconds="${{ inputs.n }}").seconds == "${{ inputs.n }}"

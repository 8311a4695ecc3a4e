"""What every test shares.

Rule 1: in continuous integration (CI=true) a test skipped because a program is missing is a failed test; such skips
begin their reason with "not installed:".
Rule 2: random tests are repeatable there: Hypothesis derives its examples from the test, not from chance.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from planloom import masking

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

IN_CI = os.environ.get("CI", "").lower() == "true"
NOT_INSTALLED = "not installed:"

settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if IN_CI else "dev")


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the folder of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _secrets_of_one_test_are_none_of_the_next() -> Iterator[None]:
    with masking.forgetting():
        yield


def _refuse_missing_programs(report: Any) -> None:
    if not IN_CI or not report.skipped or not isinstance(report.longrepr, tuple):
        return
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    if reason.startswith(NOT_INSTALLED):
        report.outcome = "failed"
        report.longrepr = f"skipped, which continuous integration does not accept: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    _refuse_missing_programs(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    _refuse_missing_programs(report)
    return report

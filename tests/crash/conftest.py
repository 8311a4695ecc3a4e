"""The counts of the crash sweep, summed up over all tests and processes, and printed at the end."""

from __future__ import annotations

import pytest

LEAST = 10_000
"""Points that a whole sweep has."""
WHOLE = 200
"""Tests from which on it is a whole one."""
_swept: list[dict[str, int]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        _swept.extend(value for name, value in report.user_properties if name == "crash sweep")  # type: ignore[misc]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _swept:
        return
    told = {name: sum(counts[name] for counts in _swept) for name in ("points", "lost", "doubled", "unknown")}
    shapes = len({counts["shape"] for counts in _swept})
    terminalreporter.section("crash sweep")
    terminalreporter.write_line(
        f"{shapes} plan shapes stopped at {told['points']:,} points: {told['lost']} lost, {told['doubled']} doubled, "
        f"{told['unknown']:,} outcomes unknown and looked up"
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    points = sum(counts["points"] for counts in _swept)
    if len(_swept) >= WHOLE and points < LEAST:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

"""The gauge finds what it is there to find, and two fuzz runs of one seed are one run."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fuzz import __main__ as program
from fuzz import gauge as measured
from fuzz.gauge import MOST_MB, Finding, Gauge
from fuzz.lanes import by_grammar, seeds_of
from fuzz.running import Lane, run_lanes
from fuzz.targets import TARGETS, Check, Target, law, taken
from planloom.errors import PlanError

PLAN = TARGETS["plan"]


def reading(reads: Callable[[bytes], Check | None]) -> Gauge:
    return Gauge(Target("planted", reads, (PlanError,), (1, 1), ("a",)))


def overflow(raw: bytes) -> Check | None:
    return overflow(raw + b"a")


def slow(raw: bytes) -> Check | None:
    end = time.thread_time() + 0.015
    while time.thread_time() < end:
        pass
    return taken


def hungry(raw: bytes) -> Check | None:
    return taken if len(b"x" * int((MOST_MB + 8) * 2**20)) else None


def refused(raw: bytes) -> Check | None:
    raise PlanError("no")


def other_error(raw: bytes) -> Check | None:
    raise KeyError("x")


def unlawful(raw: bytes) -> Check | None:
    return lambda: law(False, "it is another plan")


def refused_late(raw: bytes) -> Check | None:
    return lambda: refused(raw) and None


@pytest.mark.parametrize(
    ("reads", "what"),
    [
        (other_error, "KeyError: 'x'"),
        (overflow, "RecursionError"),
        (unlawful, "broken law: it is another plan"),
        (refused_late, "taken, and then PlanError"),
        (hungry, "needed 7"),
    ],
)
def test_what_no_input_may_come_to_is_a_finding(reads: Callable[[bytes], Check | None], what: str) -> None:
    gauge = reading(reads)

    first, second = gauge.take(b"input"), gauge.take(b"again")

    assert first is not None
    assert first.what.startswith(what)
    assert first.data == b"input"
    assert second is None, "one finding of a kind"


def test_an_input_that_takes_long_every_time_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "MOST_MS", 10.0)
    times = 0

    def slow_once(raw: bytes) -> Check | None:
        nonlocal times
        times += 1
        return slow(raw) if times == 1 else taken

    assert reading(slow_once).take(b"") is None
    found = reading(slow).take(b"")
    assert found is not None
    assert found.what.startswith("took ")


def test_what_takes_long_can_be_looked_at_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "MOST_MS", 10.0)
    gauge = reading(slow)
    gauge.looks_later = True

    assert gauge.take(b"") is None
    assert not gauge.findings
    gauge.settle()

    assert [finding.what.split()[0] for finding in gauge.findings.values()] == ["took"]


def test_what_is_refused_or_taken_is_none() -> None:
    refusing, taking = reading(refused), reading(lambda raw: taken)

    assert refusing.take(b"") is None
    assert taking.take(b"") is None
    assert (refusing.accepted, refusing.refused) == (0, 1)
    assert (taking.accepted, taking.refused) == (1, 0)


def test_a_finding_tells_the_input_and_the_command_that_repeats_it() -> None:
    encoded = base64.b64encode(b"a: \xff").decode()

    lines = Finding("plan", "took 200 ms", "", b"a: \xff").text().splitlines()

    assert lines == [
        "FOUND in plan: took 200 ms",
        "  input   b'a: \\xff'",
        f"  base64  {encoded}",
        f"  again   python -m fuzz again plan {encoded}",
    ]


def test_an_input_can_be_given_once_more(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"a. One\n")

    code = program.main(["again", "plan", f"@{file}"])

    assert code == 0
    assert capsys.readouterr().out.startswith("taken\n7 bytes, ")


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "frames"])
def test_the_seeds_of_every_target_are_read(name: str) -> None:
    paths = seeds_of(name)
    gauge = Gauge(TARGETS[name])

    findings = [gauge.take(path.read_bytes()) for path in paths]

    assert paths
    assert not any(findings)


@pytest.mark.slow
def test_the_same_seed_makes_the_same_inputs_and_another_one_others() -> None:
    gauges = [Gauge(TARGETS["answer"]) for _ in range(3)]

    for gauge, seed in zip(gauges, (1, 1, 2), strict=True):
        by_grammar(gauge, 40, seed)

    digests = [gauge.to_dict()["digest"] for gauge in gauges]
    assert digests[0] == digests[1] != digests[2]
    assert [gauge.inputs for gauge in gauges] == [40, 40, 40]
    assert not any(gauge.findings for gauge in gauges)


@pytest.mark.slow
def test_a_lane_that_dies_is_a_finding_with_the_input_it_died_of(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = Lane("plan", "nonsense", 10, 1)

    (done,) = run_lanes([lane], jobs=1)

    assert [finding.what.splitlines()[0] for finding in done.findings] == ["the process ended with status 2"]


def test_a_large_input_is_cut_to_what_the_bounds_are_for() -> None:
    sizes: list[int] = []
    target = replace(PLAN, reads=lambda raw: sizes.append(len(raw)))

    Gauge(target).take(b"x" * 100_000)

    assert sizes == [32 * 1024]

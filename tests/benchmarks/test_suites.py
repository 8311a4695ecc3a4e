"""Each suite runs and says something; how fast anything is, is no matter of tests."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

import pytest

from benchmarks import __main__ as command
from benchmarks import pages
from benchmarks.plans import chain, fan_out, five_steps, layered, plan_of
from benchmarks.rows import Budget, Row, as_markdown, over_budget, worse_than
from benchmarks.timing import Scale, in_turns
from planloom.plan.graph import compile_plan

if TYPE_CHECKING:
    from pathlib import Path

ROW = Row("a step", "µs", 30.0, 10.0, "by hand", Budget(2.0, 1.0, why="it does more"))


@pytest.mark.timing
@pytest.mark.parametrize("suite", [name for name in command.SUITES if name not in command.NEED_TORCH])
def test_a_suite_yields_rows_of_numbers_under_names_of_their_own(suite: str, tmp_path: Path) -> None:
    says_something(suite, tmp_path)


def says_something(suite: str, folder: Path) -> None:
    rows = asyncio.run(command.SUITES[suite](Scale(tiny=True), folder))

    assert rows
    assert all(isfinite(row.ours) and row.ours > 0 for row in rows)
    assert all(row.ratio is None or row.ratio > 0 for row in rows)
    assert len({row.what for row in rows}) == len(rows)


@pytest.mark.slow
def test_the_command_writes_what_it_measured_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    command.main(["heart", "--tiny", "--json", "found.json"])

    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["machine"]["sqlite"]
    assert "a decision in a plan of 100" in [row["what"] for row in found["rows"]]


@pytest.mark.parametrize("needs", [chain(5), fan_out(5), five_steps(), layered(4, 3)])
def test_a_plan_has_the_edges_of_the_dict_it_is_made_from(needs: dict[str, tuple[str, ...]]) -> None:
    graph = compile_plan(plan_of(needs, tool="bench.pass_on"))

    edges = {entry.step.id: {graph.steps[place].step.id for place in entry.upstream} for entry in graph.steps}

    assert edges == {step: set(above) for step, above in needs.items()}


def test_the_first_round_does_not_count_and_every_other_goes_backwards() -> None:
    called: list[str] = []

    async def arm(name: str) -> float:
        called.append(name)
        return float(len(called))

    found = asyncio.run(in_turns(lambda: arm("a"), lambda: arm("b"), rounds=2))

    assert called == ["a", "b", "b", "a", "a", "b"]
    assert found == [[4.0, 5.0], [3.0, 6.0]]


@pytest.mark.parametrize(("ours", "verdict"), [(9.0, "within stretch"), (15.0, "within budget"), (20.1, "OVER BUDGET")])
def test_a_verdict_compares_the_ratio_with_the_budget(ours: float, verdict: str) -> None:
    assert replace(ROW, ours=ours).verdict == verdict


def test_a_budget_of_our_own_number_leaves_the_ratio_alone() -> None:
    row = replace(ROW, ours=30.0, budget=Budget(40.0, of="ours"))

    assert row.verdict == "within budget"


def test_a_row_over_its_budget_says_why() -> None:
    assert over_budget([ROW]) == ["**a step**: 3× where 2× is the most: it does more."]


def test_only_what_got_a_quarter_worse_is_reported() -> None:
    rows = [ROW, replace(ROW, what="another", ours=24.9), replace(ROW, what="new")]

    assert worse_than({"a step": 2.0, "another": 2.0}, rows) == ["a step: the ratio was 2.00 and is 3.00"]


def test_the_table_replaces_what_is_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{pages.BEGIN}\nold\n{pages.END}\nafter\n", encoding="utf-8")

    pages.replace_between(page, as_markdown([ROW], ("what", "ratio")))

    table = "| what | ratio |\n| --- | --- |\n| a step | 3.00 |"
    assert page.read_text(encoding="utf-8") == f"before\n{pages.BEGIN}\n{table}\n{pages.END}\nafter\n"


def test_the_documents_have_a_place_for_the_table(root: Path) -> None:
    for name in ("README.md", "docs/benchmarks.md"):
        text = (root / name).read_text(encoding="utf-8")
        assert text.index(pages.BEGIN) < text.index(pages.END)

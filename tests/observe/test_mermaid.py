from __future__ import annotations

import re

import pytest

from observe.pictured import DIAMOND, EVIL, MAPPED, MIXED, MIXED_RESULT, NESTED, random_plan
from planloom.observe.mermaid import graph_dot, graph_mermaid
from planloom.plan.model import Plan

MERMAID_LINE = re.compile(
    r"""flowchart[ ]TD
    | \s+n[\d_]+(?:\[\[|\(\[|\{\{|\[/|\[|>)"[^"\\<>`{}|]*(?:<br/>[^"\\<>`{}|]*)*"(?:\]\]|\]\)|\}\}|/\]|\])
    | \s+subgraph[ ]n[\d_]+\["[^"]*"\] | \s+end | \s+class[ ]n[\d_]+[ ]\w+
    | \s+n[\d_]+[ ](?:-->|-\.[ ]"[^"]*"[ ]\.->)[ ]n[\d_]+ | \s+classDef[ ]\w+[ ][\w:#,\- ]+""",
    re.VERBOSE,
)
DOT_STRING = r'"(?:[^"\\]|\\.)*"'
DOT_LINE = re.compile(
    rf"""digraph[ ]{DOT_STRING}[ ]\{{ | \s*\}} | \s+rankdir=TB;[ ]compound=true; | \s+(?:node|edge)[ ]\[.*\];
    | \s+subgraph[ ]cluster_n[\d_]+[ ]\{{ | \s+label={DOT_STRING};
    | \s+n[\d_]+(?:[ ]->[ ]n[\d_]+)?(?:[ ]\[(?:\w+=(?:{DOT_STRING}|[\w]+)(?:,[ ])?)+\])?;""",
    re.VERBOSE,
)
PLANS = [DIAMOND, MAPPED, MIXED, NESTED, EVIL, Plan(), random_plan(60, span=10, degree=2)]


@pytest.mark.parametrize("plan", PLANS)
def test_a46_every_line_of_mermaid_is_one_its_grammar_knows(plan: Plan) -> None:
    lines = graph_mermaid(plan).splitlines()

    assert [line for line in lines if not MERMAID_LINE.fullmatch(line)] == []


@pytest.mark.parametrize("plan", PLANS)
def test_a46_every_line_of_dot_is_one_its_grammar_knows(plan: Plan) -> None:
    text = graph_dot(plan)

    assert [line for line in text.splitlines() if not DOT_LINE.fullmatch(line)] == []
    assert text.count("{") - text.count("}") == sum(line.count("{") - line.count("}") for line in text.splitlines())


def test_mermaid_puts_each_step_in_the_class_of_its_status() -> None:
    lines = [line.strip() for line in graph_mermaid(MIXED, MIXED_RESULT).splitlines()]

    assert [line for line in lines if line.startswith("class n")] == [
        "class n0 completed",
        "class n1 failed",
        "class n2 skipped",
        "class n3 running",
        "class n4 pending",
    ]
    assert {line.split()[1] for line in lines if line.startswith("classDef")} == {
        "completed", "failed", "skipped", "running", "pending",
    }  # fmt: skip


def test_mermaid_draws_a_conditional_edge_dotted_with_its_condition() -> None:
    assert '  n0 -. "if steps.done.output.n #60; 3" .-> n2' in graph_mermaid(MIXED).splitlines()


def test_dot_draws_a_conditional_edge_dashed_with_its_condition() -> None:
    assert '  n0 -> n2 [style=dashed, label="if steps.done.output.n < 3"];' in graph_dot(MIXED).splitlines()


def test_dot_cannot_be_left_through_a_label() -> None:
    text = graph_dot(EVIL)

    assert 'n2 [label="a\\"b&amp;c\\n' in text
    assert 'n6 [label="#35;\\\\N`%{}|\\n' in text

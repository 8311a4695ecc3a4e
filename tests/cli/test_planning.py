from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from cli.conftest import Folder
from planloom.cli.planning import plan_text
from planloom.plan.load import load_plan, parse_plan

COUNT = {
    "name": "count",
    "steps": [{"id": "count", "tool": "t.count", "with": {"text": "${{ inputs.text }}"}}],
    "outputs": "${{ steps.count.output }}",
}
LINES = "a. Count the words\nb. Say how many (requires step a)\n"
BOUND = {
    "steps": [
        {"id": "a", "tool": "t.count", "with": {"text": "one two"}},
        {"id": "b", "tool": "t.echo", "with": {"value": "${{ steps.a.output }} words"}},
    ]
}


def answers(folder: Folder, *given: Any) -> str:
    """Have a model answer this, and return its address."""
    path = folder.write("answers.json", json.dumps(list(given)))
    return f"scripted://{path}"


def test_a_task_becomes_a_plan_on_stdout_that_runs(folder: Folder) -> None:
    model = answers(folder, COUNT)

    planned = folder.call("plan", "Count the words", "--model", model, "--context", "text=one two three")
    ran = folder.call("run", "-", "--input", "text=one two three", "-q", input=planned.out)

    assert (planned.code, ran.code) == (0, 0)
    assert ran.out == "3\n"
    assert parse_plan(planned.out).allow == ("t.count",)


def test_planning_runs_nothing_and_makes_no_journal(folder: Folder) -> None:
    folder.call("plan", "Count the words", "--model", answers(folder, COUNT), "--context", "text=x")

    assert not (folder.path / "calls.log").exists()
    assert not (folder.path / ".planloom").exists()


def test_what_it_took_is_told_beside_the_plan(folder: Folder) -> None:
    model = answers(folder, "no plan", COUNT) + "?price_in=1000&price_out=1000"

    ended = folder.call("plan", "Count the words", "--model", model, "--context", "text=x")

    notes = ended.err.splitlines()
    assert notes[0].startswith("asking scripted:///")
    assert notes[1].startswith("2 calls, ")
    assert not notes[1].endswith("$0.0000")
    assert "t.count" in notes[2]


def test_the_answer_as_json_is_the_document(folder: Folder) -> None:
    ended = folder.call("plan", "x", "--model", answers(folder, COUNT), "--context", "text=x", "--json")

    assert load_plan(ended.value).steps[0].tool == "t.count"
    assert ended.value["cost"] == 0.0


@pytest.mark.parametrize("name", ["plan.yaml", "plan.json"])
def test_a_plan_in_a_file_is_left_there_and_stdout_is_empty(folder: Folder, name: str) -> None:
    ended = folder.call("plan", "x", "--model", answers(folder, COUNT), "--context", "text=x", "-o", name)

    assert (ended.code, ended.out) == (0, "")
    assert f"wrote {name}" in ended.err
    assert folder.call("check", name).code == 0


def test_a_file_that_cannot_be_written_is_an_error_of_its_own(folder: Folder) -> None:
    model = answers(folder, COUNT)

    ended = folder.call("plan", "x", "--model", model, "--context", "text=x", "-o", "no/such/plan.yaml")

    assert ended.code == 7
    assert "cannot write no/such/plan.yaml" in ended.err


def test_a8_every_problem_of_the_last_answer_is_told(folder: Folder) -> None:
    bad = {"steps": [{"id": "a", "tool": "t.cuont"}, {"id": "b", "tool": "t.count"}]}

    ended = folder.call("plan", "x", "--model", answers(folder, bad, bad, bad))

    assert (ended.code, ended.out) == (1, "")
    problems = [line for line in ended.err.splitlines() if line.startswith("problem[")]
    assert [line.partition(":")[0] for line in problems] == ["problem[plan.unknown_tool]", "problem[plan.arguments]"]
    assert "error[plan.not_planned]" in ended.err
    assert "3 calls" in ended.err


def test_lines_of_english_are_bound_and_run(folder: Folder) -> None:
    folder.write("lines.txt", LINES)

    bound = folder.call("plan", "--bind", "lines.txt", "--model", answers(folder, BOUND), "-o", "plan.yaml")
    ran = folder.call("run", "plan.yaml", "-q")

    assert (bound.code, ran.code) == (0, 0)
    assert ran.out == "2 words\n"


def test_problems_of_a_plan_that_is_to_be_bound_are_told_with_their_place(folder: Folder) -> None:
    folder.write("lines.txt", "a. Count the words [no.such]\nb. Say it\n")

    ended = folder.call("plan", "--bind", "lines.txt", "--model", answers(folder, BOUND))

    assert ended.code == 2
    assert ended.err.splitlines()[1].startswith("lines.txt:1:1: error[plan.unknown_tool]")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give a TASK, or --bind FILE"),
        (("x", "--bind", "lines.txt"), "give a TASK, or --bind FILE"),
        (("x", "--context", "nonsense"), "--context 'nonsense' is not NAME=VALUE"),
    ],
)
def test_wrong_arguments_are_refused(folder: Folder, arguments: tuple[str, ...], words: str) -> None:
    ended = folder.call("plan", *arguments)

    assert ended.code == 2
    assert words in ended.err


def test_without_any_model_the_setting_is_named(folder: Folder) -> None:
    ended = folder.call("plan", "x")

    assert ended.code == 7
    assert "default_model" in ended.err


def test_the_model_of_the_settings_plans_where_none_is_given(folder: Folder) -> None:
    model = answers(folder, COUNT)
    folder.write("planloom.toml", f'tools = ["tools.py"]\ndefault_model = "{model}"\n')

    assert folder.call("plan", "x", "--context", "text=x").code == 0


def test_a_model_without_its_key_is_refused_before_anything_is_sent(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    ended = folder.call("plan", "x", "--model", "openai://gpt-4o")

    assert ended.code == 7
    assert "error[config.missing_key]" in ended.err


def test_steps_may_only_use_tools_that_the_settings_allow(folder: Folder) -> None:
    folder.write("planloom.toml", 'tools = ["tools.py"]\nallow = ["t.echo"]\n')

    ended = folder.call("plan", "x", "--model", answers(folder, COUNT, COUNT, COUNT), "--context", "text=x")

    assert ended.code == 1
    assert "t.count" in ended.err


def test_estimates_come_from_runs_on_record(folder: Folder) -> None:
    plan = folder.plan("p.json", {"id": "a", "tool": "t.count", "with": {"text": "one"}})
    model = answers(folder, COUNT)

    before = folder.call("plan", "x", "--model", model, "--context", "text=x", "--json")
    folder.call("run", plan)
    after = folder.call("plan", "x", "--model", model, "--context", "text=x", "--json")

    assert "estimated_latency_ms" not in before.value
    assert after.value["estimated_latency_ms"] >= 0


def test_a_plan_that_asks_a_model_nobody_set_says_so(folder: Folder) -> None:
    ask = {"steps": [{"id": "a", "model": "default", "prompt": "Say hello"}]}

    ended = folder.call("plan", "x", "--model", answers(folder, ask))

    assert ended.code == 0
    assert "set default_model" in ended.err


def test_plans_are_written_so_that_they_read_as_the_same() -> None:
    values = ["1e3", "0o7", "yes", "null", "~", "on", "", " x ", "a: b", "# c", "two\nlines\n", "tab\there", "é", "- a"]
    plan = load_plan(
        {
            "planloom": 1,
            "name": "1.10",
            "steps": [{"id": "a", "tool": "t", "with": {"values": values, "deep": {"n": 1.5, "t": True, "z": None}}}],
            "outputs": "${{ steps.a.output }} and $${{ this }}",
            "cost": 1e-05,
        }
    )

    text = plan_text(plan)

    assert parse_plan(text) == plan
    assert text.startswith("planloom: 1\n")
    assert yaml.safe_load(text)["steps"][0]["id"] == "a"

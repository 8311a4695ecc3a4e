from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from cli.conftest import Folder

STEPS = ({"id": "a", "tool": "t.echo"}, {"id": "b", "tool": "t.echo", "needs": ["a"]})


def test_a_sound_plan_passes(folder: Folder) -> None:
    ended = folder.call("check", folder.plan("p.json", *STEPS))

    assert (ended.code, ended.out.splitlines()[0]) == (0, "p.json: p, 2 steps, no problems")


def test_check_runs_nothing_and_makes_no_journal(folder: Folder) -> None:
    folder.call("check", folder.plan("p.json", {"id": "a", "tool": "t.count", "with": {"text": "x"}}))

    assert not (folder.path / "calls.log").exists()
    assert not (folder.path / ".planloom").exists()


def test_a1_every_problem_is_told_with_its_place(folder: Folder) -> None:
    folder.write(
        "p.yaml",
        "planloom: 1\nsteps:\n"
        "  - {id: a, tool: t.echo, needs: [c]}\n"
        "  - {id: b, tool: t.echo, needs: [a]}\n"
        "  - {id: c, tool: t.echo, needs: [b]}\n"
        "  - {id: d, tool: t.echo, needs: [zzz]}\n",
    )

    ended = folder.call("check", "p.yaml")

    assert ended.code == 2
    problems = [line for line in ended.err.splitlines() if not line.startswith("  try:")]
    assert [problem.split(":")[:2] for problem in problems] == [["p.yaml", "3"], ["p.yaml", "6"]]
    assert "error[plan.cycle]: steps wait for each other: a -> b -> c -> a" in problems[0]
    assert "error[plan.unknown_step]" in problems[1]


def test_problems_as_json_are_a_list_with_places(folder: Folder) -> None:
    folder.write("p.yaml", "planloom: 1\nsteps:\n  - {id: a, tool: t.no}\n  - {id: b, tool: t.nono}\n")

    ended = folder.call("check", "p.yaml", "--json")

    problems = ended.value["error"]["problems"]
    assert [(problem["step"], problem["line"], problem["file"]) for problem in problems] == [
        ("a", 3, "p.yaml"),
        ("b", 4, "p.yaml"),
    ]


def test_no_error_can_steer_the_terminal(folder: Folder) -> None:
    plan = folder.plan("p.json", {"id": "a\u001b[31m", "tool": "t.\u202eno"})
    folder.write("loud.py", "raise RuntimeError('\\x1b[31mred\\u202e')\n")

    refused = folder.call("check", plan)
    broken = folder.call("check", plan, "--tools", "loud.py")

    assert (refused.code, broken.code) == (2, 7)
    assert [char for char in refused.err + broken.err if not char.isprintable() and char != "\n"] == []


@pytest.mark.parametrize(
    ("shape", "begins"),
    [("text", "p (2 steps)"), ("svg", "<svg "), ("mermaid", "flowchart TD\n"), ("dot", 'digraph "p" {\n')],
)
def test_a_plan_is_drawn_in_every_format(folder: Folder, shape: str, begins: str) -> None:
    ended = folder.call("graph", folder.plan("p.json", *STEPS), "--format", shape)

    assert ended.code == 0
    assert ended.out.startswith(begins)


def test_the_end_of_the_file_name_says_the_format(folder: Folder) -> None:
    plan = folder.plan("p.json", *STEPS)

    assert folder.call("graph", plan, "-o", "p.svg").out == "wrote p.svg\n"
    folder.call("graph", plan, "-o", "p.mmd")

    assert ElementTree.parse(folder.path / "p.svg").getroot().tag.endswith("svg")
    assert (folder.path / "p.mmd").read_text().startswith("flowchart TD\n")


def test_a_run_is_drawn_with_its_state_from_the_record_alone(folder: Folder) -> None:
    plan = folder.plan("p.json", *STEPS)
    folder.call("run", plan, "--run-id", "r1")
    (folder.path / plan).unlink()

    assert "  ✓ a (tool t.echo) completed" in folder.call("graph", "--run", "r1").out


def test_the_timeline_of_a_run_is_drawn_too(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", *STEPS), "--run-id", "r1")

    assert folder.call("graph", "--run", "r1", "--timeline").out.startswith("✓ a ")
    folder.call("graph", "--run", "r1", "--timeline", "-o", "t.svg")
    assert "p: timeline" in (folder.path / "t.svg").read_text()
    assert folder.call("graph", "--run", "r1", "--timeline", "--format", "dot").code == 2
    assert folder.call("graph", "p.json", "--timeline").code == 2


def test_graph_wants_a_plan_or_a_run(folder: Folder) -> None:
    assert folder.call("graph").code == 2


def test_graph_as_json_holds_the_drawing(folder: Folder) -> None:
    value = folder.call("graph", folder.plan("p.json", *STEPS), "--format", "svg", "--json").value

    assert value["format"] == "svg"
    assert ElementTree.fromstring(value["graph"]).tag.endswith("svg")


def test_a_file_that_cannot_be_written_exits_with_7(folder: Folder) -> None:
    assert folder.call("graph", folder.plan("p.json", *STEPS), "-o", "nowhere/p.svg").code == 7


def test_the_schema_is_json(folder: Folder) -> None:
    schema = json.loads(folder.call("schema").out)

    assert schema == folder.call("schema", "--json").value
    assert "json-schema.org" in schema["$schema"]

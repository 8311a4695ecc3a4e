from __future__ import annotations

import pytest

from cli.conftest import Folder

ECHO = {"id": "a", "tool": "t.echo", "with": {"value": "hello"}}
ASK = [
    {"id": "first", "tool": "t.echo", "with": {"value": "1.4"}},
    {"id": "ok", "approve": {"message": "Publish ${{ steps.first.output }}?"}},
    {"id": "last", "tool": "t.echo", "needs": ["ok"], "with": {"value": "out"}},
]
MENDABLE = [
    {"id": "counted", "tool": "t.count", "with": {"text": "a b c"}},
    {"id": "broken", "tool": "t.fail_until_there", "needs": ["counted"], "with": {"path": "there"}},
]


def test_a_run_that_ends_well_prints_its_result_and_exits_with_0(folder: Folder) -> None:
    ended = folder.call("run", folder.plan("p.json", ECHO), "--run-id", "r1")

    assert (ended.code, ended.out) == (0, "hello\n")


def test_the_run_id_is_told_before_anything_else(folder: Folder) -> None:
    ended = folder.call("run", folder.plan("p.json", ECHO), "--run-id", "r1")

    first, second = ended.err.splitlines()[:2]
    assert first == "run r1"
    assert second.endswith(" ms")
    assert " a completed " in second


def test_with_json_stdout_is_one_document(folder: Folder) -> None:
    ended = folder.call("run", folder.plan("p.json", ECHO), "--json", "--run-id", "r1")

    assert ended.value["run_id"] == "r1"
    assert ended.value["result"] == "hello"
    assert ended.value["steps"][0]["status"] == "completed"
    assert "run r1" in ended.err


def test_quiet_leaves_the_id_and_the_summary(folder: Folder) -> None:
    ended = folder.call("run", folder.plan("p.json", ECHO), "-q", "--run-id", "r1")

    assert [line.partition(":")[0] for line in ended.err.splitlines()] == ["run r1", "success"]


def test_a_tolerated_failure_exits_with_3(folder: Folder) -> None:
    plan = folder.plan("p.json", ECHO, {"id": "b", "tool": "t.echo", "when": "1 > 2"})

    ended = folder.call("run", plan)

    assert ended.code == 3
    assert "b skipped: condition false" in ended.err


def test_a_failed_run_exits_with_1_and_says_how_to_run_the_rest(folder: Folder) -> None:
    ended = folder.call("run", folder.plan("p.json", *MENDABLE), "--run-id", "r1")

    assert ended.code == 1
    assert "broken failed: KeyError: 'kaboom'" in ended.err
    assert ended.err.splitlines()[-1] == "to run the rest: planloom resume --failed r1"


def test_a_run_that_waits_exits_with_4_and_says_the_exact_commands(folder: Folder) -> None:
    ended = folder.call("run", folder.plan("p.json", *ASK), "--run-id", "r1")

    assert ended.code == 4
    assert "ok waits for approval: Publish 1.4?" in ended.err
    assert ended.err.splitlines()[-2:] == ["to go on: planloom approve r1 ok", "then:     planloom resume r1"]


def test_the_commands_it_says_carry_the_options_they_need(folder: Folder) -> None:
    folder.write("planloom.toml", "")
    plan = folder.plan("p.json", *ASK)

    ended = folder.call("run", plan, "--run-id", "r1", "--journal", "my runs.db", "--tools", "tools.py")

    assert ended.err.splitlines()[-2:] == [
        "to go on: planloom approve r1 ok --journal 'my runs.db'",
        "then:     planloom resume r1 --journal 'my runs.db' --tools tools.py",
    ]


def test_a_limit_reached_exits_with_5(folder: Folder) -> None:
    plan = folder.plan("p.json", ECHO, {"id": "b", "tool": "t.echo", "needs": ["a"]})

    ended = folder.call("run", plan, "--limit", "max_tool_calls=1", "--json")

    assert ended.code == 5
    assert ended.value["exceeded_limits"] == ["max_tool_calls"]


def test_problems_of_a_plan_exit_with_2_each_with_file_line_and_column(folder: Folder) -> None:
    folder.write(
        "p.yaml",
        "planloom: 1\nsteps:\n  - id: a\n    tool: t.ehco\n  - id: b\n    tool: t.count\n    with: {txt: x}\n",
    )

    ended = folder.call("run", "p.yaml")

    assert ended.code == 2
    places = [line.partition(": ")[0] for line in ended.err.splitlines() if not line.startswith("  try:")]
    assert places[0] == "p.yaml:4:11"
    assert {place.rpartition(":")[0] for place in places[1:]} == {"p.yaml:7"}
    assert "  try: did you mean 't.echo'?" in ended.err.splitlines()
    assert "run " not in ended.err.partition("error")[0]


def test_a_plan_that_is_not_there_exits_with_2(folder: Folder) -> None:
    assert folder.call("run", "nowhere.yaml").code == 2


def test_tools_that_cannot_be_loaded_exit_with_7(folder: Folder) -> None:
    folder.write("broken.py", "1 / 0\n")

    ended = folder.call("run", folder.plan("p.json", ECHO), "--tools", "broken.py")

    assert ended.code == 7
    assert "error[config]: loading tools from 'broken.py' failed: ZeroDivisionError" in ended.err


def test_a_journal_that_is_none_exits_with_6(folder: Folder) -> None:
    folder.write("notes.txt", "this is no journal, and it is long enough to have a header of a database " * 20)

    ended = folder.call("run", folder.plan("p.json", ECHO), "--journal", "notes.txt")

    assert ended.code == 6
    assert ended.err.startswith("error[journal.format]")


def test_a_name_that_is_taken_exits_with_6_and_changes_nothing(folder: Folder) -> None:
    plan = folder.plan("p.json", ECHO)
    folder.call("run", plan, "--run-id", "r1")
    before = folder.call("events", "r1").out

    assert folder.call("run", plan, "--run-id", "r1").code == 6
    assert folder.call("events", "r1").out == before


def test_a_plan_comes_from_standard_input_too(folder: Folder) -> None:
    text = folder.write("p.yaml", "planloom: 1\nsteps:\n  - {id: a, tool: t.echo}\n").read_text()

    assert folder.call("run", "-", input=text).out == "x\n"
    assert folder.call("run", "-", input=text.replace("echo", "ecco")).err.startswith("<stdin>:3:19: error")


def test_inputs_come_from_options_and_files(folder: Folder) -> None:
    folder.write("in.json", '{"number": 1, "text": "from the document"}')
    folder.write("text.txt", "from a file\n")
    plan = folder.plan(
        "p.json",
        {"id": "a", "tool": "t.echo", "with": {"value": "${{ inputs.text }}|${{ inputs.number }}|${{ inputs.code }}"}},
        inputs={"text": {"type": "string"}, "number": {"type": "integer"}, "code": {"type": "string"}},
    )

    ended = folder.call("run", plan, "--inputs", "in.json", "--input-file", "text=text.txt", "--input", "code=007")

    assert ended.out == "from a file\n|1|007\n"


def test_a_missing_input_exits_with_2_before_there_is_a_run(folder: Folder) -> None:
    ended = folder.call("run", folder.plan("p.json", ECHO, inputs={"text": {"type": "string"}}))

    assert ended.code == 2
    assert "error[plan.inputs]: input 'text' is missing" in ended.err
    assert folder.call("list", "--json").value == []


def test_resume_of_a_run_that_ended_says_what_it_came_to(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", *MENDABLE), "--run-id", "r1")
    before = folder.call("events", "r1").out

    ended = folder.call("resume", "r1")

    assert ended.code == 1
    assert "failed: 1 of 2 steps completed" in ended.err
    assert folder.call("events", "r1").out == before


def test_resume_failed_starts_a_new_run_that_reuses_what_was_finished(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", *MENDABLE), "--run-id", "r1")
    folder.write("there", "")

    ended = folder.call("resume", "--failed", "r1", "--new-id", "r2")

    assert ended.code == 0
    assert "counted completed reused" in ended.err
    assert (folder.path / "calls.log").read_text() == "count\n"
    assert folder.call("show", "r1", "--json").value["status"] == "failed"
    assert folder.call("show", "r2", "--json").value["status"] == "success"


def test_a_run_goes_on_after_the_answer_and_tells_only_what_is_new(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", *ASK), "--run-id", "r1")
    folder.call("approve", "r1", "ok")

    ended = folder.call("resume", "r1")

    assert (ended.code, ended.out) == (0, "out\n")
    assert "last completed" in ended.err
    assert "first completed" not in ended.err


def test_the_settings_file_is_found_above_the_plan_and_names_tools_from_its_own_folder(folder: Folder) -> None:
    (folder.path / "planloom.toml").unlink()
    folder.write("shop/planloom.toml", 'tools = ["here.py"]\n')
    folder.write("shop/here.py", (folder.path / "tools.py").read_text())
    folder.path.joinpath("shop/plans").mkdir()

    ended = folder.call("run", folder.plan("shop/plans/p.json", ECHO))

    assert (ended.code, ended.out) == (0, "hello\n")


def test_a_tool_outside_the_allowlist_of_the_settings_is_refused(folder: Folder) -> None:
    folder.write("planloom.toml", 'tools = ["tools.py"]\nallow = ["t.count"]\n')

    ended = folder.call("run", folder.plan("p.json", ECHO))

    assert ended.code == 2
    assert "error[plan.not_allowed]" in ended.err


def test_an_unknown_setting_exits_with_7(folder: Folder) -> None:
    folder.write("planloom.toml", 'tool = ["tools.py"]\n')

    assert folder.call("run", folder.plan("p.json", ECHO)).code == 7


@pytest.mark.parametrize(
    "arguments",
    [
        ["--input", "novalue"],
        ["--input", "a=1", "--input", "a=2"],
        ["--limit", "max_toolcalls=1"],
        ["--limit", "max_tool_calls=many"],
        ["--max-concurrent", "0"],
    ],
)
def test_wrong_options_exit_with_2(folder: Folder, arguments: list[str]) -> None:
    assert folder.call("run", folder.plan("p.json", ECHO), *arguments).code == 2

from __future__ import annotations

from cli.conftest import Ended, Folder

ASK = {"id": "ok", "approve": {"message": "Fine?"}}
FORM = {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]}


def waiting(folder: Folder, step: dict[str, object] = ASK) -> Ended:
    return folder.call("run", folder.plan("p.json", step), "--run-id", "r1")


def test_an_approval_lets_the_run_go_on_and_says_who_gave_it(folder: Folder) -> None:
    waiting(folder)

    answered = folder.call("approve", "r1", "ok", "--by", "ann")

    assert (answered.code, answered.out) == (0, "recorded; to go on: planloom resume r1\n")
    assert folder.call("resume", "r1", "--json").value["result"] == {"approved_by": "ann"}


def test_a_denial_fails_the_step(folder: Folder) -> None:
    waiting(folder)

    folder.call("approve", "r1", "ok", "--deny", "--by", "ann")

    ended = folder.call("resume", "r1")
    assert ended.code == 1
    assert "ok failed: denied by ann" in ended.err


def test_what_is_filled_in_becomes_the_output(folder: Folder) -> None:
    waiting(folder, {"id": "ok", "approve": {"message": "How much?", "form": FORM}})

    folder.call("approve", "r1", "ok", "--data", '{"amount": 7}')

    assert folder.call("resume", "r1", "--json").value["result"] == {"amount": 7}


def test_an_answer_that_does_not_fit_the_form_is_refused_and_not_recorded(folder: Folder) -> None:
    waiting(folder, {"id": "ok", "approve": {"message": "How much?", "form": FORM}})

    assert folder.call("approve", "r1", "ok", "--data", '{"amount": "much"}').code == 7
    assert folder.call("resume", "r1").code == 4


def test_data_that_is_no_json_is_a_usage_error(folder: Folder) -> None:
    waiting(folder)

    ended = folder.call("approve", "r1", "ok", "--data", "yes")

    assert ended.code == 2
    assert "--data is not JSON" in ended.err


def test_a_step_that_does_not_wait_says_which_do(folder: Folder) -> None:
    waiting(folder)

    ended = folder.call("approve", "r1", "okay")

    assert ended.code == 7
    assert "  try: these do: ok\n" in ended.err


def test_resolve_wants_exactly_one_answer(folder: Folder) -> None:
    waiting(folder)

    assert folder.call("resolve", "r1", "ok").code == 2
    assert folder.call("resolve", "r1", "ok", "--retry", "--output", "1").code == 2


def test_resolve_is_for_unknown_outcomes_only(folder: Folder) -> None:
    waiting(folder)

    ended = folder.call("resolve", "r1", "ok", "--fail")

    assert ended.code == 7
    assert "does not wait for a resolution" in ended.err


def test_a_waiting_run_can_be_cancelled(folder: Folder) -> None:
    waiting(folder)

    folder.call("cancel", "r1", "--by", "ann", "--reason", "too late")

    ended = folder.call("resume", "r1")
    assert ended.code == 130
    assert "cancelled by ann: too late" in ended.err


def test_a_run_that_ended_cannot_be_cancelled(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", {"id": "a", "tool": "t.echo"}), "--run-id", "r1")

    ended = folder.call("cancel", "r1", "--json")

    assert ended.code == 7
    assert ended.value["error"]["message"] == "run 'r1' has ended: success"


def test_a_run_that_was_paused_while_nobody_drove_it_goes_on_when_it_is_resumed(folder: Folder) -> None:
    waiting(folder)

    told = folder.call("pause", "r1", "--by", "ann")
    approved = folder.call("approve", "r1", "ok")

    ended = folder.call("resume", "r1")
    assert (told.code, approved.code, ended.code) == (0, 0, 0)


def test_a_run_that_ended_cannot_be_paused(folder: Folder) -> None:
    folder.call("run", folder.plan("p.json", {"id": "a", "tool": "t.echo"}), "--run-id", "r1")

    ended = folder.call("pause", "r1", "--json")

    assert ended.code == 7
    assert ended.value["error"]["message"] == "run 'r1' has ended: success"


def test_answers_as_json_say_what_comes_next(folder: Folder) -> None:
    waiting(folder)

    assert folder.call("approve", "r1", "ok", "--json").value == {
        "run_id": "r1",
        "recorded": "ApprovalAnswered",
        "driven": False,
        "next": "planloom resume r1",
    }


PAYING = """
from planloom import tool

@tool(name="t.pay", effects="once", needs_approval=True)
def pay(sum: int, to: str) -> str:
    \"\"\"Pay.\"\"\"
    return f"{sum} paid"
"""


def paying(folder: Folder) -> Ended:
    folder.write("tools.py", PAYING)
    step = {"id": "pay", "tool": "t.pay", "with": {"sum": 5, "to": "\x1b[2Jann"}}
    return folder.call("run", folder.plan("p.json", step), "--run-id", "r1")


def test_what_a_call_would_be_given_is_shown_whole_with_the_command_that_allows_just_that(folder: Folder) -> None:
    assert paying(folder).code == 4

    shown = folder.call("show", "r1")
    binding = folder.call("show", "r1", "--json").value["steps"][0]["approval"]["binding"]

    assert 'pay, attempt 1, would give t.pay: {"sum": 5, "to": "\\u001b[2Jann"}' in shown.out
    assert f"to go on: planloom approve r1 pay --binding {binding[:16]}\n" in shown.out


def test_who_says_yes_is_told_to_what(folder: Folder) -> None:
    paying(folder)

    answered = folder.call("approve", "r1", "pay", "--by", "ann")

    assert answered.code == 0
    assert answered.out.startswith('pay, attempt 1, would give t.pay: {"sum": 5')
    assert folder.call("resume", "r1", "--json").value["result"] == "5 paid"


def test_a_yes_to_something_else_is_not_recorded(folder: Folder) -> None:
    paying(folder)

    ended = folder.call("approve", "r1", "pay", "--binding", "0" * 16)

    assert ended.code == 7
    assert "nothing that this step of this run asked" in ended.err
    assert folder.call("resume", "r1").code == 4


def test_a_yes_to_exactly_what_was_shown_is_recorded(folder: Folder) -> None:
    paying(folder)
    binding = folder.call("show", "r1", "--json").value["steps"][0]["approval"]["binding"]

    answered = folder.call("approve", "r1", "pay", "--binding", binding, "--json")

    assert answered.value["approval"]["binding"] == binding
    assert folder.call("resume", "r1").code == 0

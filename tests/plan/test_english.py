from __future__ import annotations

import pytest

from planloom.errors import PlanError
from planloom.plan.load import load_plan, parse_plan
from planloom.plan.model import Step


def test_a29_the_three_lines_of_the_event_driven_agent_are_a_plan() -> None:
    plan = parse_plan(
        "a. Get all contacts\nb. Create a personalized message\nc. Send emails (requires steps a and b)\n"
    )

    assert plan.steps == (
        Step(id="a", task="Get all contacts"),
        Step(id="b", task="Create a personalized message"),
        Step(id="c", task="Send emails", needs=("a", "b")),
    )


@pytest.mark.parametrize(
    ("clause", "needs"),
    [
        ("(requires step a)", ("a",)),
        ("(requires steps a and b)", ("a", "b")),
        ("(requires steps a, b)", ("a", "b")),
        ("(requires steps a, b, and a)", ("a", "b")),
        ("(Requires: a & b).", ("a", "b")),
        ("(after A and B)", ("a", "b")),
        ("[needs a]", ("a",)),
        ("requires a, b", ("a", "b")),
        (", requires steps a and b", ("a", "b")),
        ("after a and b", ("a", "b")),
        ("after a.", ("a",)),
    ],
)
def test_a29_a_clause_at_the_end_says_what_a_line_waits_for(clause: str, needs: tuple[str, ...]) -> None:
    plan = parse_plan(f"a. One\nb) Two\n(c) Three {clause}\n")

    assert plan.steps[2] == Step(id="c", task="Three", needs=needs)


@pytest.mark.parametrize("text", ["Call back after a week", "Look after it", "Say what it requires", "Sum (a and b)"])
def test_words_that_only_look_like_a_clause_stay_in_the_task(text: str) -> None:
    plan = parse_plan(f"a. {text}\nb. Two\n")

    assert plan.steps[0] == Step(id="a", task=text)


def test_title_comments_and_blank_lines_are_read() -> None:
    plan = parse_plan(
        "# a note\nWrite to everyone:\n\n  A. Get all contacts\n\n# another\n  aa. Send emails (after a)\n"
    )

    assert plan.description == "Write to everyone"
    assert plan.steps == (Step(id="a", task="Get all contacts"), Step(id="aa", task="Send emails", needs=("a",)))


def test_a_binding_names_the_tool_and_its_arguments() -> None:
    plan = parse_plan(
        'a. Get contacts [contacts.all city="Paris \\"75\\"" limit=3 active=true note=null]\n'
        "b. Write [text.write]\n"
        "c. Send [mail.send to=a.list[0].mail text=b sender=inputs.me] (requires steps a and b)\n"
    )

    assert plan.steps == (
        Step(
            id="a",
            tool="contacts.all",
            args={"city": 'Paris "75"', "limit": 3, "active": True, "note": None},
            description="Get contacts",
        ),
        Step(id="b", tool="text.write", description="Write"),
        Step(
            id="c",
            tool="mail.send",
            args={
                "to": "${{ steps.a.output.list[0].mail }}",
                "text": "${{ steps.b.output }}",
                "sender": "${{ inputs.me }}",
            },
            needs=("a", "b"),
            description="Send",
        ),
    )


def test_every_problem_of_lettered_lines_comes_at_once_in_order() -> None:
    with pytest.raises(PlanError) as caught:
        parse_plan(
            "a. One (requires q)\nno letter\na. Two\nb. Three [t x=zz y=-Infinity z=1 z=2]\nc. Four (after it all)\n"
        )

    assert [problem.line for problem in caught.value.problems] == [1, 2, 3, 4, 4, 4, 5]
    assert all(problem.remedy and problem.column for problem in caught.value.problems)


def test_a_circle_of_letters_has_a_line() -> None:
    with pytest.raises(PlanError, match="a -> b -> a") as caught:
        parse_plan("a. One (after b)\nb. Two (after a)\n")

    assert caught.value.line == 1


def test_a_text_file_may_hold_lettered_lines(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "plan.txt"
    path.write_text("a. One\nb. Two (after a)\n")

    assert load_plan(str(path)).steps[1].needs == ("a",)


def test_yaml_with_lettered_lines_inside_stays_yaml() -> None:
    plan = parse_plan("planloom: 1\ndescription: |\n  a. One\n  b. Two\nsteps:\n  - {id: x, tool: t}\n")

    assert plan.steps == (Step(id="x", tool="t"),)

"""What the validators look at, and that one that fails is no pass."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planloom.errors import ConfigError, GrantError
from planloom.verify.checks import ValidatorRegistry, Wanted
from planloom.verify.verdict import Check


def checked(wanted: Wanted, output: Any, *, registry: ValidatorRegistry | None = None, prompt: str = "") -> Check:
    (validator,) = (registry or ValidatorRegistry()).all_of([wanted])
    return asyncio.run(validator.check(output, prompt))


PASSING = [
    ({"length": {"min_chars": 3, "max_chars": 3}}, "abc"),
    ({"length": {"min_words": 2, "max_words": 2}}, " a  b "),
    ({"keyword": {"required": ["Total"], "forbidden": ["TODO"]}}, "the total is 3"),
    ({"keyword": {"forbidden": ["todo"], "ignore_case": False}}, "TODO"),
    ({"json_schema": {"schema": {"type": "object", "required": ["a"]}}}, '```json\n{"a": 1}\n```'),
    ({"json_schema": {"schema": {"type": "object", "required": ["a"]}}}, {"a": 1}),
    ({"regex": {"pattern": r"^\d{4}-\d{2}$"}}, "2026-11"),
    ({"regex": {"pattern": "secret", "negate": True}}, "open"),
    ("pii", "Call the office, order 4111111111111112, section 078-05-112 of 2024-01-02 12:00"),
    ({"pii": {"kinds": ["email"]}}, "+49 30 1234567"),
    ("profanity", "A classic assessment of Scunthorpe"),
    ({"profanity": {"allowed": ["damn"]}}, "damn good"),
    ({"sentiment": {"min_score": 0.1}}, "This is not bad, it works well"),
    ({"sentiment": {"min_score": -1, "max_score": 0}}, "The parcel weighs 3 kg"),
    ({"citations": {"documents": 3}}, "as said [1], and [2, 3]"),
    ("execution", "x = 1\nprint(x)"),
    ("execution", "```python\nprint('\\d')\n```"),
]
FAILING = [
    ({"length": {"min_chars": 3}}, "ab", "it has 2 characters; at least 3 are wanted"),
    ({"length": {"max_words": 1}}, "a b", "it has 2 words; at most 1 are wanted"),
    ({"keyword": {"required": ["total"]}}, "sum", "it does not say 'total'"),
    ({"keyword": {"forbidden": ["todo"]}}, "TODO: all", "it says 'todo'"),
    ({"json_schema": {"schema": {"type": "object"}}}, "[1]", "is not of type 'object'"),
    ({"json_schema": {"schema": {}}}, "Here it is: {}", "it is no JSON"),
    ({"json_schema": {"schema": {}}}, '{"a": NaN}', "it is no JSON"),
    ({"json_schema": {"schema": {}}}, "[" * 100_000, "it is no JSON"),
    ({"regex": {"pattern": "^a+$"}}, "b", "it does not match"),
    ({"regex": {"pattern": "b", "negate": True}}, "b", "it matches"),
    ("pii", "write to Ann.Other+x@mail.example.org.", "email addresses: 1"),
    ("pii", "ring +49 30 1234567 or (555) 123-4567 or 555-123-4567", "phone numbers: 3"),
    ("pii", "card 4111 1111 1111 1111, 5500005555555559", "payment card numbers: 2"),
    ("pii", "to DE89 3704 0044 0532 0130 00 PLEASE, or GB82WEST12345698765432", "IBANs: 2"),
    ("pii", {"people": [{"ssn": "078-05-1120"}]}, "US social security numbers: 1"),
    ("profanity", "Well, SHIT happens", "shit"),
    ({"profanity": {"also": ["Blast"]}}, "blast!", "blast"),
    ({"sentiment": {"min_score": 0}}, "A terrible, useless answer", "too negative: -1.00"),
    ({"sentiment": {"max_score": 0}}, "great and perfect", "too positive: 1.00"),
    ({"sentiment": {"min_score": 0}}, "it is not good", "too negative"),
    ({"citations": {"documents": 3}}, "see [2] and [4; 0]", "it cites [0], [4]; there are 3 documents"),
    ({"citations": {"documents": 3, "required": True}}, "see above", "it cites no document"),
    ("execution", "def f(:\n  pass", "it is no Python"),
    ("execution", "", "there is no code"),
    ("execution", "x" * 200_001, "at most 200,000"),
    ("execution", "(" * 300 + ")" * 300, "Python"),
    ("execution", "-" * 150_000 + "1", "Python"),
]


@pytest.mark.parametrize(("wanted", "output"), PASSING, ids=str)
def test_what_is_as_it_should_be_passes(wanted: Wanted, output: Any) -> None:
    assert checked(wanted, output).passed


@pytest.mark.parametrize(("wanted", "output", "told"), FAILING, ids=lambda value: str(value)[:40])
def test_what_is_not_is_told(wanted: Wanted, output: Any, told: str) -> None:
    check = checked(wanted, output)

    assert not check.passed
    assert told in check.feedback


@pytest.mark.parametrize("kind", ["4111 1111 1111 1111", "ann@mail.example", "078-05-1120", "DE89370400440532013000"])
def test_what_is_found_of_a_person_is_not_repeated(kind: str) -> None:
    assert kind not in checked("pii", f"it is {kind}").feedback


@pytest.mark.parametrize("number", ["4111111111111112", "0000 0000 0000 0000", "DE88 3704 0044 0532 0130 00"])
def test_numbers_whose_check_digits_are_wrong_point_to_nobody(number: str) -> None:
    assert checked({"pii": {"kinds": ["card", "iban"]}}, number).passed


@pytest.mark.parametrize(
    "text",
    ["a@" * 20_000, "+1 " * 20_000, "1-" * 20_000, "AA11" * 20_000, "```" * 20_000, "[1 " * 20_000, "1 " * 50_000],
)
def test_no_text_makes_a_validator_run_away(text: str) -> None:
    began_at = time.perf_counter()

    for wanted in ("pii", {"citations": {"documents": 1}}, "profanity", {"sentiment": {"min_score": 0}}, "execution"):
        checked(wanted, text)

    assert time.perf_counter() - began_at < 2


def test_a_pattern_that_would_backtrack_for_ever_does_not() -> None:
    began_at = time.perf_counter()

    check = checked({"regex": {"pattern": "^(a+)+$"}}, "a" * 5_000 + "b")

    assert not check.passed
    assert time.perf_counter() - began_at < 1


@given(st.text())
def test_built_in_validators_have_an_answer_to_any_text(text: str) -> None:
    for wanted in ("pii", "profanity", "execution", {"citations": {"documents": 1}}, {"sentiment": {"min_score": 0}}):
        assert "could not be checked" not in checked(wanted, text).feedback


def test_code_runs_only_where_something_is_given_that_runs_it() -> None:
    ran: list[str] = []

    async def run_code(code: str) -> None:
        ran.append(code)
        if "fail" in code:
            raise RuntimeError("boom")

    registry = ValidatorRegistry(run_code=run_code)

    assert checked("execution", "ok = 1").feedback == "it parses; it was not run: there is no sandbox here"
    assert checked("execution", "ok = 1", registry=registry).feedback == "it parses and runs"
    assert checked("execution", "fail()", registry=registry) == Check(
        "execution", passed=False, feedback="it does not run: RuntimeError: boom"
    )
    assert ran == ["ok = 1", "fail()"]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("lenght", "did you mean 'length'"),
        ("length", "it has no bound"),
        ({"length": {"max": 3}}, "max"),
        ({"length": {"max_chars": "3"}}, "valid integer"),
        ({"length": {"max_chars": -1}}, "greater than or equal"),
        ({"length": 3}, "options"),
        ({"length": [3]}, "options"),
        ("keyword", "no keyword"),
        ({"keyword": {"required": "total"}}, "list"),
        ({"regex": {"pattern": "(?=a)b"}}, "cannot be used"),
        ({"regex": {"pattern": "("}}, "cannot be used"),
        ({"regex": {"pattern": "a" * 1_001}}, "cannot be used"),
        ({"json_schema": {"schema": {"type": "nothing"}}}, "no JSON Schema"),
        ({"json_schema": {"schema": {"$ref": "https://example.org/x"}}}, "no JSON Schema"),
        ({"pii": {"kinds": ["shoe size"]}}, "email"),
        ("sentiment", "no bound"),
        ({"citations": {}}, "documents"),
        ({"execution": {"sandbox": "none"}}, "sandbox"),
        (3, "int"),
    ],
    ids=str,
)
def test_what_cannot_be_checked_is_said_before_anything_is(wanted: Any, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        ValidatorRegistry().all_of([wanted])

    assert told in str(error.value)


def test_own_validators_are_asked_with_the_answer_and_its_prompt() -> None:
    registry = ValidatorRegistry()

    async def echoes(output: Any, prompt: str) -> Check:
        return Check("it", output == prompt, "it should repeat the prompt")

    def at_most(most: int) -> Any:
        return lambda output, prompt: len(output) <= most

    registry.register("echoes", echoes)
    registry.register("at_most", factory=at_most)

    assert checked("echoes", "a", registry=registry, prompt="a").passed
    assert checked("echoes", "a", registry=registry, prompt="b") == Check(
        "echoes", passed=False, feedback="it should repeat the prompt"
    )
    assert checked({"at_most": {"most": 1}}, "ab", registry=registry).feedback == "it did not pass"
    assert "echoes" in registry.names()


def test_a_function_can_be_asked_for_as_it_is() -> None:
    def is_short(output: Any, prompt: str) -> bool:
        return len(output) < 2

    assert checked(is_short, "a") == Check("is_short", passed=True)


def test_a63_a_validator_that_raises_has_not_passed() -> None:
    class OddError(Exception):
        def __str__(self) -> str:
            raise ValueError

    def raises(output: Any, prompt: str) -> bool:
        if output == "odd":
            raise OddError
        raise ZeroDivisionError("by zero")

    assert checked(raises, "a") == Check(
        "raises", passed=False, feedback="it could not be checked: ZeroDivisionError: by zero"
    )
    assert checked(raises, "odd").feedback == "it could not be checked: OddError"


@pytest.mark.parametrize("said", [None, 1, "yes", [], object()], ids=["null", "number", "text", "list", "object"])
def test_a_validator_that_answers_neither_yes_nor_no_has_not_passed(said: Any) -> None:
    check = checked(lambda output, prompt: said, "a")

    assert not check.passed
    assert "neither yes nor no" in check.feedback


def test_a_check_that_only_seems_true_has_not_passed() -> None:
    said: Any = Check("odd", passed="yes")  # type: ignore[arg-type]  # what an own validator might do

    assert not checked(lambda output, prompt: said, "a").passed


def test_a_limit_of_the_caller_is_no_failure_of_the_validator() -> None:
    def asks(output: Any, prompt: str) -> bool:
        raise GrantError("no more", limits=("max_total_cost_usd",))

    with pytest.raises(GrantError):
        checked(asks, "a")


def test_a_validator_is_registered_as_a_function_or_a_factory() -> None:
    registry = ValidatorRegistry()

    for name, given_ in (("a", {}), (" ", {"function": lambda output, prompt: True})):
        with pytest.raises(ConfigError, match="cannot be registered"):
            registry.register(name, **given_)

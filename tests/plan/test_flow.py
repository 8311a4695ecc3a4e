from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from pydantic import ValidationError

from planloom.core.events import ToolFacts
from planloom.errors import ConfigError
from planloom.plan.flow import (
    MAX_LABELS,
    FlowPolicy,
    decide,
    decide_model,
    declares_flow,
    is_label,
    labels_after,
    labels_of,
)
from planloom.plan.policy import Effects

ASK, REFUSE, ALLOW = "needs_approval", "refused", "allowed"


def facts(**declared: Any) -> ToolFacts:
    return ToolFacts("0" * 64, **declared)


def verdict(labels: str, tool: ToolFacts | None, effects: Effects = Effects.ONCE, **policy: Any) -> str:
    return decide(frozenset(labels.split()), tool, effects, FlowPolicy(**policy)).kind


PLAIN = facts()


@pytest.mark.parametrize(
    ("labels", "tool", "effects", "policy", "found"),
    [
        ("", PLAIN, Effects.ONCE, {}, ALLOW),
        ("", None, Effects.ONCE, {}, ALLOW),
        ("web", PLAIN, Effects.ONCE, {}, ASK),
        ("web", PLAIN, Effects.IDEMPOTENT, {}, ASK),
        ("web", PLAIN, Effects.NONE, {}, ALLOW),
        ("web", None, Effects.ONCE, {}, ASK),
        ("web", None, Effects.NONE, {}, ALLOW),
        ("web", facts(sink=True), Effects.NONE, {}, ASK),
        ("web", facts(sink=False), Effects.ONCE, {}, ALLOW),
        ("web", facts(accepts=("web",)), Effects.ONCE, {}, ALLOW),
        ("web inbox", facts(accepts=("web",)), Effects.ONCE, {}, ASK),
        ("web", PLAIN, Effects.ONCE, {"untrusted": "refuse"}, REFUSE),
        ("web", PLAIN, Effects.ONCE, {"untrusted": "allow"}, ALLOW),
        ("secret", PLAIN, Effects.ONCE, {}, REFUSE),
        ("secret", PLAIN, Effects.NONE, {}, ALLOW),
        ("secret", PLAIN, Effects.ONCE, {"secret": "ask"}, ASK),
        ("secret", PLAIN, Effects.ONCE, {"secret": "allow"}, ALLOW),
        ("secret", PLAIN, Effects.ONCE, {"untrusted": "allow"}, REFUSE),
        ("secret", facts(accepts=("secret",)), Effects.ONCE, {}, ALLOW),
        ("secret web", PLAIN, Effects.ONCE, {}, REFUSE),
        ("secret web", facts(accepts=("secret",)), Effects.ONCE, {}, ASK),
        ("", facts(needs_approval=True), Effects.NONE, {}, ASK),
        ("web", facts(needs_approval=True, accepts=("web",)), Effects.ONCE, {}, ASK),
        ("web", facts(needs_approval=True), Effects.ONCE, {"untrusted": "allow"}, ASK),
        ("secret", facts(needs_approval=True), Effects.ONCE, {}, REFUSE),
    ],
)
def test_what_becomes_of_a_call(
    labels: str, tool: ToolFacts | None, effects: Effects, policy: dict[str, Any], found: str
) -> None:
    assert verdict(labels, tool, effects, **policy) == found


def test_the_reasons_of_verdicts_alike_are_told_together() -> None:
    found = decide(frozenset({"web", "secret"}), PLAIN, Effects.ONCE, FlowPolicy(secret="ask"))

    assert (found.kind, found.labels) == (ASK, ("secret", "web"))
    assert "others (web)" in found.why
    assert "a secret" in found.why


def test_only_what_is_not_accepted_is_a_reason() -> None:
    found = decide(frozenset({"web", "inbox"}), facts(accepts=("web",)), Effects.ONCE, FlowPolicy())

    assert found.labels == ("inbox",)


@pytest.mark.parametrize(
    ("labels", "policy", "found"),
    [
        ("web", {}, ALLOW),
        ("secret", {}, REFUSE),
        ("secret web", {"secret": "ask"}, ASK),
        ("secret", {"secret": "allow"}, ALLOW),
        ("secret", {"models_accept": "secret"}, ALLOW),
    ],
)
def test_what_a_model_may_be_told(labels: str, policy: dict[str, Any], found: str) -> None:
    assert decide_model(frozenset(labels.split()), FlowPolicy(**policy)).kind == found


def test_no_label_less_makes_a_verdict_graver() -> None:
    weight = [ALLOW, ASK, REFUSE].index
    handlings: list[Any] = ["ask", "refuse", "allow"]
    tools = [facts(), facts(accepts=("web",)), facts(sink=True, accepts=("secret",)), facts(needs_approval=True)]
    for untrusted, secret, tool, effects in product(handlings, handlings, tools, Effects):
        policy = {"untrusted": untrusted, "secret": secret}
        for more, less in (("web secret", "web"), ("web secret", "secret"), ("web", ""), ("secret", "")):
            graver = weight(verdict(more, tool, effects, **policy))
            assert graver >= weight(verdict(less, tool, effects, **policy)), (more, tool, effects, policy)


@pytest.mark.parametrize(
    ("given", "tool", "found"),
    [
        ("web", None, "web"),
        ("web", facts(), "web"),
        ("web", facts(cleans=("web",)), ""),
        ("web inbox", facts(cleans=("web",)), "inbox"),
        ("web", facts(cleans=("web",), source=("web",)), "web"),
        ("", facts(source=("a", "b")), "a b"),
        ("", facts(secret=True), "secret"),
        ("secret", facts(cleans=("secret",)), ""),
    ],
)
def test_what_a_result_carries(given: str, tool: ToolFacts | None, found: str) -> None:
    assert labels_after(frozenset(given.split()), tool) == frozenset(found.split())


def test_a_tool_that_only_takes_says_nothing_that_a_run_must_keep() -> None:
    assert not declares_flow(facts(sink=True, accepts=("web",), cleans=("web",)))
    assert all(map(declares_flow, (facts(source=("web",)), facts(secret=True), facts(needs_approval=True))))


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "two words", "-web", "é", "a" * 41, "web\n", 1, None])
def test_what_is_no_label(text: Any) -> None:
    assert not is_label(text)
    with pytest.raises(ConfigError, match="are no labels"):
        labels_of([text], where="source")


def test_a_lone_word_is_one_label_and_doubles_are_one() -> None:
    assert labels_of("web", where="source") == ("web",)
    assert labels_of(["b", "a", "b"], where="source") == ("a", "b")


def test_secret_is_no_source() -> None:
    with pytest.raises(ConfigError, match="'secret' is no source") as caught:
        labels_of(("secret",), where="source", reserved=True)

    assert "secret=True" in caught.value.remedy


def test_there_is_a_most_of_labels() -> None:
    with pytest.raises(ConfigError, match="65 labels"):
        labels_of([f"l{n}" for n in range(MAX_LABELS + 1)], where="source")


@pytest.mark.parametrize(
    "wrong", [{"untrusted": "maybe"}, {"models_accept": "no label"}, {"approval_seconds": 0}, {"x": 1}]
)
def test_a_policy_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FlowPolicy.model_validate(wrong)

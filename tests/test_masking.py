"""Secrets are struck out of texts in each of their spellings, of streams too, and nothing else is changed."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest

from planloom import masking
from planloom.core.events import (
    AttemptFailed,
    AttemptSucceeded,
    Fact,
    OutputStreamed,
    TimerFired,
)
from planloom.masking import Mask, StruckFacts
from planloom.plan.policy import FailureKind
from tests.runtime.canary import leaks, new_secret

SECRET = 'p4"ss/W+rd é\\x'
RAW = SECRET.encode()
SPELLINGS = {
    "plain": SECRET,
    "upper": SECRET.upper(),
    "swapped": SECRET.swapcase(),
    "json": json.dumps(SECRET),
    "json in json": json.dumps(json.dumps([SECRET])),
    "json as it is": json.dumps(SECRET, ensure_ascii=False),
    "repr": repr(SECRET),
    "url": quote(SECRET),
    "whole url": quote(SECRET, safe=""),
    "form": quote_plus(SECRET),
    "small url": quote(SECRET, safe="").lower(),
    "hex": RAW.hex(),
    "large hex": RAW.hex().upper(),
    **{f"base64 at {n}": base64.b64encode(b"u" * n + RAW + b"more").decode() for n in range(4)},
    **{f"base64 for urls at {n}": base64.urlsafe_b64encode(b"u" * n + RAW).decode() for n in range(4)},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_secret_is_struck_out_however_it_is_spelt(spelling: str) -> None:
    mask = Mask({SECRET: "IT"})
    text = f"before {SPELLINGS[spelling]} after"

    struck = mask.text(text)

    assert leaks([("text", text.encode())], {"it": SECRET}), "the search would find it"
    assert leaks([("text", struck.encode())], {"it": SECRET}) == []
    assert struck.startswith("before ")
    assert struck.endswith(" after")
    assert mask.name_in([{"a": [text]}]) == "IT"


def test_any_secret_is_struck_out_in_any_spelling_that_the_search_knows() -> None:
    for _ in range(50):
        secret = new_secret()
        raw = secret.encode()
        coded = [base64.b64encode(b"x" * n + raw).decode() for n in range(3)]

        struck = Mask({secret: "it"}).text(" ".join([secret, quote(secret), json.dumps(secret), raw.hex(), *coded]))

        assert leaks([("text", struck.encode())], {"it": secret}) == []


def test_lines_of_a_key_are_secrets_too_and_its_frame_is_none() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nshort\n-----END KEY-----"

    struck = Mask({key: "KEY"}).text("at line MIIEvQIBADANBgkqhkiG9w0 of -----BEGIN KEY----- short")

    assert struck == "at line *** of -----BEGIN KEY----- short"


def test_a_value_is_struck_everywhere_and_is_itself_where_nothing_is() -> None:
    mask = Mask({"12345678": "PIN"})
    untouched = {"a": [1, 12345678, 1234.5678, None, True, "1234567"], "b": ("x",)}

    struck = mask.value({"12345678": ["is 12345678!", ("12345678",)], "n": 12345678})

    assert struck == {"***": ["is ***!", ("***",)], "n": 12345678}
    assert mask.value(untouched) is untouched


def test_of_a_fact_only_what_somebody_filled_in_is_changed() -> None:
    mask = Mask({"completed": "WORD"})
    done = AttemptSucceeded("completed", 1, 1, {"status": "completed"}, 0.0, 1.0, metadata={"m": "completed"})
    failed = AttemptFailed("completed", 1, 1, FailureKind.ERROR, "not completed", 0.0, 1.0)

    assert mask.fact(done) == AttemptSucceeded("completed", 1, 1, {"status": "***"}, 0.0, 1.0, metadata={"m": "***"})
    assert mask.fact(failed).error == "not ***"
    assert mask.fact(failed).step == "completed"
    timer = TimerFired("completed", 1.0)
    assert mask.fact(timer) is timer


@pytest.mark.parametrize("spelling", ["plain", "hex", "base64 at 1", "whole url"])
def test_a_secret_that_is_streamed_in_any_two_or_three_pieces_is_struck_out(spelling: str) -> None:
    mask = Mask({SECRET: "IT"})
    text = f"well, p4 {SPELLINGS[spelling]} p4"

    for first in range(len(text)):
        for second in (first, first + 1, first + 5):
            pieces = [text[:first], text[first:second], text[second:]]
            facts: list[Fact] = [OutputStreamed("s", 1, 1, piece, 1.0) for piece in pieces if piece]
            facts.append(AttemptSucceeded("s", 1, 1, text, 0.0, 2.0))

            *streamed, done = taken(mask, facts)

            whole = "".join(one.text for one in streamed if isinstance(one, OutputStreamed))
            assert isinstance(done, AttemptSucceeded)
            assert leaks([("text", whole.encode())], {"it": SECRET}) == []
            assert whole == done.output


def test_what_only_looked_like_a_beginning_is_streamed_with_the_next_piece_or_the_end() -> None:
    mask = Mask({"secret-value": "IT"})
    facts: list[Fact] = [
        OutputStreamed("s", 1, 1, "a secret", 1.0),
        OutputStreamed("other", 1, 1, "-value", 1.5),
        OutputStreamed("s", 1, 1, " is a secret", 2.0),
        AttemptFailed("s", 1, 1, FailureKind.ERROR, "broke off", 0.0, 3.0),
    ]

    texts = [one.text for one in taken(mask, facts) if isinstance(one, OutputStreamed)]

    assert texts == ["a ", "-value", "secret is a ", "secret"]


def taken(mask: Mask, facts: list[Fact]) -> list[Fact]:
    struck = StruckFacts()
    return [one for fact in facts for one in struck.facts(mask, fact)]


def test_what_is_declared_stays_a_secret_and_what_is_short_is_none(caplog: pytest.LogCaptureFixture) -> None:
    old, new = new_secret(), new_secret()

    masking.declare({"A_TOKEN": f" {old}\n", "SHORT": "1234567", "UNSET": None}, variables=["A_TOKEN"])
    masking.declare({"A_TOKEN": new})

    mask = masking.known()
    assert mask is not None
    assert mask.text(f"{old}, {new}, 1234567") == "***, ***, 1234567"
    assert mask.name_in(old) == mask.name_in(new) == "A_TOKEN"
    assert "A_TOKEN" in masking.names()
    assert "SHORT has fewer than 8" in caplog.text
    assert "1234567" not in caplog.text


def test_a_mask_does_not_show_what_it_hides() -> None:
    assert SECRET not in repr(Mask({SECRET: "IT"}))


def test_what_is_declared_in_a_block_for_tests_is_forgotten_after_it() -> None:
    secret, before = new_secret(), masking.known()

    with masking.forgetting():
        masking.declare({"A_TOKEN": secret}, variables=["A_TOKEN"])

    assert masking.known() is before
    assert "A_TOKEN" not in masking.names()

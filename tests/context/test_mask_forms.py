"""A mask in its three forms: all say the same, and what the definition says."""

from __future__ import annotations

import json
from math import exp
from pathlib import Path
from random import Random
from typing import Any

import pytest

from planloom.context.layout import Segment, build_layout
from planloom.context.mask_forms import Form, TokenMask
from planloom.errors import ConfigError
from planloom.plan.gasa import GasaPolicy
from tests.context.layouts import CHUNK, READER, SINK, cells_by_definition, graph_of, random_layout

FORMS: tuple[Form, ...] = ("dense", "sparse", "block_sparse")
ROW = graph_of(("a", "b"), ("b", "c"), ("c", "d"))
"""a - b - c - d"""


def soft(strategy: str = "soft", bias: float = 0.5) -> TokenMask:
    """Return a mask in which d reads itself, c and b, each one token, and not a."""
    policy = GasaPolicy.model_validate({"max_hops": 2, "mask_strategy": strategy, "soft_bias": bias})
    return TokenMask.of(build_layout([Segment(CHUNK, 1, node) for node in "abcd"], ROW, policy))


def test_a65_a_soft_weight_falls_with_every_hop_and_ends_with_the_last() -> None:
    weights = [soft().weight(3, token) for token in (3, 2, 1, 0)]

    assert weights == [1.0, exp(-0.5), exp(-1.0), 0.0]
    assert weights == sorted(set(weights), reverse=True)


def test_a_binary_weight_is_all_or_nothing() -> None:
    assert [soft("binary").weight(3, token) for token in (3, 2, 1, 0)] == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("form", FORMS)
def test_a65_every_form_says_what_the_definition_says_on_a_hundred_random_prompts(form: Form) -> None:
    for seed in range(100):
        layout, graph = random_layout(Random(seed), most_tokens=10)
        cells = [bytes(row) for row in cells_by_definition(layout, graph)]

        mask = TokenMask.of(layout, form)

        assert mask.form == form
        assert list(mask.rows()) == cells, seed
        assert [mask.row(token) for token in range(mask.n)] == cells, seed
        assert mask.density == layout.pair_fraction, seed


@pytest.mark.slow
def test_a65_any_form_turns_into_any_other_and_stays_the_same_mask() -> None:
    for seed in range(30):
        layout, _ = random_layout(Random(seed), most_tokens=30)
        masks = [TokenMask.of(layout, form) for form in FORMS]

        for mask in masks:
            assert all(mask.in_form(form).same_as(other) for form in FORMS for other in masks), seed


def test_masks_that_differ_are_not_the_same() -> None:
    one, other = soft(), soft(bias=0.6)
    farther = TokenMask.of(build_layout([Segment(CHUNK, 1, node) for node in "abcd"], ROW, GasaPolicy(max_hops=3)))

    assert not one.same_as(other)
    assert not soft("binary").same_as(farther)
    assert not farther.same_as(soft("binary").in_form("dense"))


@pytest.mark.parametrize("form", FORMS)
def test_a65_a_mask_comes_back_from_its_file(form: Form, tmp_path: Path) -> None:
    for seed in range(20):
        mask = TokenMask.of(random_layout(Random(seed))[0], form)
        mask.save(tmp_path / "mask.json")

        loaded = TokenMask.load(tmp_path / "mask.json")

        assert loaded == mask
    assert json.loads((tmp_path / "mask.json").read_text())["form"] == form, "it is JSON, and nothing else"


@pytest.mark.slow
def test_a65_the_sparse_forms_of_a_sparse_mask_are_far_smaller_than_the_dense_one() -> None:
    names = [f"n{number}" for number in range(64)]
    graph = graph_of(*((names[at], names[at + 1]) for at in range(0, 63, 8)), nodes=names)
    chunks = [Segment(CHUNK, 127, name) for name in names]

    layout = build_layout([Segment(SINK, 32), *chunks, Segment(READER, 32)], graph, GasaPolicy(max_hops=1))
    dense, sparse, blocks = (TokenMask.of(layout, form) for form in FORMS)

    assert layout.n == 8192
    assert dense.density < 0.05
    assert dense.size_bytes == 8192**2
    assert sparse.size_bytes < dense.size_bytes / 1000
    assert blocks.size_bytes < dense.size_bytes / 10


def test_a_mask_too_large_to_hold_pair_by_pair_is_refused() -> None:
    mask = TokenMask.of(build_layout([Segment(READER, 100_000)], None, GasaPolicy()))

    with pytest.raises(ConfigError, match="takes 9"):
        mask.in_form("dense")


def test_a_form_that_does_not_exist_is_refused() -> None:
    form: Any = "spares"

    with pytest.raises(ConfigError, match="no form 'spares'"):
        soft().in_form(form)


@pytest.mark.parametrize("token", [-1, 4])
def test_a_token_past_the_end_is_refused(token: int) -> None:
    with pytest.raises(ConfigError, match="no token"):
        soft().row(token)


WRONG: dict[str, dict[str, Any]] = {
    "a gap": {"bands": [[0, 1, []], [2, 4, []]]},
    "an end too early": {"bands": [[0, 3, []]]},
    "an end too late": {"bands": [[0, 5, []]]},
    "a range past its band": {"bands": [[0, 2, [[0, 3, 1]]], [2, 4, []]]},
    "ranges over each other": {"bands": [[0, 4, [[0, 2, 1], [1, 3, 1]]]]},
    "a cell that is no byte": {"bands": [[0, 4, [[0, 4, 300]]]]},
    "an empty cell": {"bands": [[0, 4, [[0, 4, 0]]]]},
    "a bias that is none": {"soft_bias": float("nan")},
    "no blocks": {"block_size": 0},
    "half a token": {"n": 4.0},
    "no bands": {"bands": None},
    "another form": {"form": "pickle"},
    "a form of another kind": {"form": ["dense"]},
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_mask_is_refused(what: str) -> None:
    with pytest.raises(ConfigError):
        TokenMask.from_dict(soft().to_dict() | WRONG[what])


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"7", b"\x80\x04K\x07.", b"[" * 100_000])
def test_a_file_that_holds_no_mask_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mask.json"
    path.write_bytes(text)

    with pytest.raises(ConfigError):
        TokenMask.load(path)

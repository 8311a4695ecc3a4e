"""Q1: a model that was never tuned to a mask answers as well with one, as long as the mask follows the true graph."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from benchmarks import chain_qa as qa

PROMPTS = 100
"""Each holds four questions of each number of links."""
ONE_POINT = 0.01
GUESSING = 0.2
"""One of eight values, or of those that are left."""
COIN = 0.65
"""One link the question can follow itself, as it reads every document: to two values, where a key changes its own."""
HOPS = (1, 2)
TRUE_GRAPH = {case.max_hops: case for case in qa.CASES if case.name.startswith("true")}
WRONG_GRAPH = next(case for case in qa.CASES if case.name.startswith("wrong"))
SIZES = [pytest.param(qa.MEASURED, id="keys keep their value"), pytest.param(qa.CHANGED, id="keys change their value")]


@cache
def trained() -> Any:
    return qa.load()


@cache
def shares(case: qa.Case | None, size: qa.Size = qa.MEASURED) -> dict[int, float]:
    return qa.accuracy(trained(), case, count=PROMPTS, size=size)


def masked(case: qa.Case, order: list[int]) -> Any:
    """Return who may read whom, token by token, from the definition alone: nothing of the layout or the backends."""
    graph, length = case.graph, qa.MEASURED.reader_from + 2 * qa.MEASURED.chained
    mask = torch.zeros(length, length, dtype=torch.bool)
    mask[:, 0] = True
    mask[qa.MEASURED.reader_from :] = True
    for reading, document in enumerate(order):
        reached = graph.hops(qa.node_of(document), case.max_hops)
        for read, other in enumerate(order):
            if qa.node_of(other) in reached:
                q, k = 1 + qa.LENGTH * reading, 1 + qa.LENGTH * read
                mask[q : q + qa.LENGTH, k : k + qa.LENGTH] = True
    return mask.tril()


@pytest.mark.slow
def test_the_model_answers_across_none_one_and_two_links_without_a_mask() -> None:
    kept, changed = shares(None), shares(None, qa.CHANGED)

    assert kept.keys() == {0, 1, 2}
    assert changed.keys() == {1, 2}
    assert min(*kept.values(), *changed.values()) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("max_hops", HOPS)
def test_with_the_true_graph_answers_are_within_a_point_of_dense_attention_untuned(
    max_hops: int, size: qa.Size
) -> None:
    followed, dense = shares(TRUE_GRAPH[max_hops], size), shares(None, size)

    assert followed == pytest.approx(dense, abs=ONE_POINT)


@pytest.mark.slow
@pytest.mark.parametrize("case", [TRUE_GRAPH[0], WRONG_GRAPH], ids=lambda case: case.name)
def test_where_documents_read_nobody_or_the_wrong_ones_answers_across_links_are_guessed(case: qa.Case) -> None:
    kept, changed = shares(case), shares(case, qa.CHANGED)

    assert kept[0] >= 0.95
    assert max(kept[2], changed[2]) < GUESSING
    assert changed[1] < COIN


@pytest.mark.slow
def test_only_chains_that_the_graph_has_lost_a_link_of_are_guessed() -> None:
    case = qa.Case("cut", qa.graph_of(cut=qa.CUT), 2)
    given = qa.prompts(PROMPTS, qa.MEASURED_SEED, qa.CHANGED)
    cut = chains_asked(given, qa.CUT)

    right = (qa.answers(trained(), given, case) == given.targets)[:, qa.CHANGED.asked]

    links = given.links[:, qa.CHANGED.asked]
    assert right[cut & (links == 2)].float().mean().item() < GUESSING
    assert right[cut & (links == 1)].float().mean().item() < COIN
    assert right[~cut & (links > 0)].float().mean().item() >= 0.95


def chains_asked(given: qa.Prompts, chains: tuple[int, ...]) -> Any:
    """Return which questions are about these chains."""
    keys = given.ids[:, given.size.own_keys]
    place = (keys[:, None] == given.ids[:, given.size.asked][:, :, None]).int().argmax(2)
    return torch.isin(given.order.gather(1, place) // qa.DEPTH, torch.tensor(chains))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["blockrow", "sdpa_mask"])
@pytest.mark.parametrize("case", [*qa.CASES, qa.Case("cut", qa.graph_of(cut=qa.CUT), 2)], ids=lambda case: case.name)
def test_the_attention_reads_what_a_mask_written_from_the_definition_lets_it_read(case: qa.Case, backend: str) -> None:
    given = qa.prompts(10, qa.MEASURED_SEED)
    masks = torch.stack([masked(case, order) for order in given.order.tolist()])[:, None]

    found = qa.logits(trained(), given, case, backend=backend)

    with torch.no_grad():
        expected = trained()(given.ids, attention_mask=masks).logits
    assert torch.allclose(found, expected, atol=1e-3, rtol=1e-4)
    assert torch.equal(found.argmax(-1)[:, qa.MEASURED.asked], expected.argmax(-1)[:, qa.MEASURED.asked])


def test_no_text_states_an_answer_that_takes_a_link_to_find() -> None:
    given = qa.prompts(50, seed=3)

    for ids, targets in zip(given.ids.tolist(), given.targets.tolist(), strict=True):
        text = dict(zip(ids[qa.MEASURED.own_keys], ids[qa.MEASURED.payloads], strict=True))
        values = [payload for payload in text.values() if payload >= qa.FIRST_VALUE]
        assert len(values) == len(set(values)) == qa.MEASURED.chains + qa.MEASURED.alone
        for key, target in zip(ids[qa.MEASURED.asked], targets[qa.MEASURED.asked], strict=True):
            reached = text[key]
            while reached < qa.FIRST_VALUE:
                reached = text[reached]
            assert reached == target
        assert not any(token >= qa.FIRST_VALUE for token in ids[qa.MEASURED.reader_from :])


def test_a_link_means_what_its_key_led_to_where_it_stands_and_keys_with_two_values_are_not_asked_for() -> None:
    given = qa.prompts(50, seed=5, size=qa.Size(chains=3, alone=4, again=True))

    for ids, targets in zip(given.ids.tolist(), given.targets.tolist(), strict=True):
        means: dict[int, int] = {}
        twice = set()
        for mark in range(1, given.size.reader_from, qa.LENGTH):
            _, key, payload = ids[mark : mark + qa.LENGTH]
            twice |= {key} & means.keys()
            means[key] = payload if payload >= qa.FIRST_VALUE else means[payload]
            assert targets[mark + qa.LENGTH - 1] == means[key]
        assert len(twice) == given.size.chains
        for key, target in zip(ids[given.size.asked], targets[given.size.asked], strict=True):
            assert target == (qa.NO_TARGET if key in twice else means[key])


def test_every_document_stands_after_what_it_depends_on() -> None:
    given = qa.prompts(50, seed=4)

    for order in given.order.tolist():
        for place, document in enumerate(order):
            if document < qa.MEASURED.chained and document % qa.DEPTH:
                assert document - 1 in order[:place]


def test_the_weights_stay_small() -> None:
    size = sum(file.stat().st_size for file in qa.WEIGHTS.iterdir())

    assert size < 500_000

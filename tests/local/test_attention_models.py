"""Whole models under a layout: what they read, what reaches what, and that generating is exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from planloom.context.attention.apply import apply
from planloom.plan.gasa import GasaPolicy
from tests.local.layouts import chain, complete, draw, joined
from tests.local.tiny import shared, tiny, tokens

HOP = GasaPolicy(max_hops=1)
ALONE = GasaPolicy(max_hops=0)
NEAR = {"atol": 1e-5, "rtol": 0}
WIDER = {"atol": 1e-4, "rtol": 0}


def test_a66_e1_a_complete_graph_gives_the_logits_of_no_mask_bit_for_bit(model: Any) -> None:
    layout = complete([20, 31, 12])
    prompt = tokens(layout.n)

    with torch.no_grad():
        dense = model(prompt).logits
        with apply(model, layout, backend="blockrow"):
            masked = model(prompt).logits

    assert torch.equal(masked, dense)


def test_e1_a_complete_graph_writes_the_same_tokens(model: Any) -> None:
    layout = complete([20, 31, 12])
    prompt = tokens(layout.n)

    dense = written(model, prompt)
    with apply(model, layout):
        masked = written(model, prompt)

    assert torch.equal(masked, dense)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["blockrow", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_e2_whole_models_read_what_an_explicit_mask_lets_them(model: Any, backend: Any) -> None:
    for seed in range(4):
        layout = draw(seed, chunks=(3, 6), tokens=(1, 30)).layout
        prompt = tokens(layout.n, seed=seed)

        with torch.no_grad(), apply(model, layout, backend="sdpa_mask"):
            explicit = model(prompt).logits
        with torch.no_grad(), apply(model, layout, backend=backend) as applied:
            masked = model(prompt).logits

        assert applied.backend == backend
        torch.testing.assert_close(masked.log_softmax(-1), explicit.log_softmax(-1), **WIDER)


def test_e3_a_changed_chunk_changes_nothing_that_cannot_reach_it(model: Any) -> None:
    layout = joined([10, 12, 9, 11], [(1, 0), (3, 2)], policy=HOP)
    prompt = tokens(layout.n)
    other = prompt.clone()
    other[0, layout.starts[1] : layout.ends[1]] = tokens(10, seed=9)

    before, after = (states(model, layout, given) for given in (prompt, other))

    changed = [bool((before - after)[:, start:end].abs().max() > 0) for start, end, _ in layout.spans()]
    assert changed == [False, True, True, False, False, True]  # sink, chunks 0 to 3, reader


def test_e3_gradients_reach_what_perturbation_reaches(model: Any) -> None:
    layout = joined([10, 12, 9, 11], [(1, 0), (3, 2)], policy=HOP)

    reached = [influences(model, layout, at) for at in range(1, 6)]

    assert reached == [
        [True, True, False, False, False, False],
        [True, True, True, False, False, False],
        [True, False, False, True, False, False],
        [True, False, False, True, True, False],
        [True] * 6,
    ]


def test_e3_a_limit_of_hops_holds_for_each_layer() -> None:
    layout = chain([8, 8, 8, 8, 8], policy=HOP)

    three_layers = influences(shared("llama"), layout, 5)
    one_layer = influences(tiny("llama", num_hidden_layers=1), layout, 5)

    assert three_layers == [True, False, True, True, True, True, False]
    assert one_layer == [True, False, False, False, True, True, False]


def test_a66_a_disconnected_documents_change_leaves_the_others_states_as_they_were(model: Any) -> None:
    layout = joined([14, 15, 16], [(1, 0)], policy=HOP)
    prompt = tokens(layout.n)
    other = prompt.clone()
    other[0, layout.starts[3] : layout.ends[3]] = tokens(16, seed=5)

    before, after = (states(model, layout, given) for given in (prompt, other))

    first = layout.starts[3]
    assert torch.equal(before[:, :first], after[:, :first])
    assert not torch.equal(before[:, layout.starts[4] :], after[:, layout.starts[4] :])


def test_e4_a_cached_answer_is_what_reading_it_all_again_gives(model: Any) -> None:
    layout = chain([20, 21, 22], policy=ALONE)
    prompt = tokens(layout.n + 6)

    with torch.no_grad(), apply(model, layout):
        whole = model(prompt).logits
        begun = model(prompt[:, : layout.n], use_cache=True)
        rows = [begun.logits]
        for at in range(layout.n, layout.n + 6):
            begun = model(prompt[:, at : at + 1], past_key_values=begun.past_key_values, use_cache=True)
            rows.append(begun.logits)

    torch.testing.assert_close(torch.cat(rows, dim=1).log_softmax(-1), whole.log_softmax(-1), **WIDER)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 7, 30])
def test_e4_a_prompt_in_pieces_is_read_as_one(model: Any, size: int) -> None:
    layout = chain([20, 21, 22], policy=ALONE)
    prompt = tokens(layout.n)

    with torch.no_grad(), apply(model, layout):
        whole = model(prompt).logits
        kept, rows = None, []
        for piece in prompt.split(size, dim=1):
            answer = model(piece, past_key_values=kept, use_cache=True)
            kept = answer.past_key_values
            rows.append(answer.logits)

    torch.testing.assert_close(torch.cat(rows, dim=1).log_softmax(-1), whole.log_softmax(-1), **WIDER)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["blockrow", "flex", "sdpa_mask"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_e4_an_assistant_changes_no_token_and_the_mask_does(model: Any, backend: Any) -> None:
    layout = chain([20, 21, 22], policy=ALONE)
    prompt = tokens(layout.n, seed=3)
    assistant = tiny(model.config.model_type, seed=4)

    dense = written(model, prompt)
    with apply(model, layout, backend=backend):
        alone = written(model, prompt)
        assisted = written(model, prompt, assistant_model=assistant)
        looked_up = written(model, prompt, prompt_lookup_num_tokens=3)

    assert torch.equal(assisted, alone)
    assert torch.equal(looked_up, alone)
    assert not torch.equal(alone, dense)


def test_e4_every_backend_writes_the_same(model: Any) -> None:
    layout = chain([20, 21, 22], policy=HOP)
    prompt = tokens(layout.n, seed=3)

    answers = []
    for backend in ("blockrow", "sdpa_mask"):
        with apply(model, layout, backend=backend):  # type: ignore[arg-type]
            answers.append(written(model, prompt))

    assert torch.equal(*answers)


def test_chunks_may_all_begin_right_after_the_sink() -> None:
    model = shared("llama")
    layout = chain([12, 12], policy=GasaPolicy(max_hops=0, positions="parallel"))
    prompt = tokens(layout.n)
    prompt[0, layout.starts[2] : layout.ends[2]] = prompt[0, layout.starts[1] : layout.ends[1]]

    with torch.no_grad(), apply(model, layout):
        places = torch.tensor([layout.positions()])
        rows = model(prompt, position_ids=places).logits

    first, second = (rows[:, layout.starts[at] : layout.ends[at]] for at in (1, 2))
    torch.testing.assert_close(first, second, **NEAR)


def written(model: Any, prompt: Any, **more: Any) -> Any:
    return model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False, **more)


def states(model: Any, layout: Any, prompt: Any) -> Any:
    """Return what the last layer says of each token."""
    with torch.no_grad(), apply(model, layout):
        return model(prompt, output_hidden_states=True).hidden_states[-1]


def influences(model: Any, layout: Any, at: int) -> list[bool]:
    """Return for each segment whether segment `at` depends on it at all, by gradient, exactly."""
    given = model.get_input_embeddings()(tokens(layout.n)).detach().requires_grad_()
    with apply(model, layout):
        found = model(inputs_embeds=given).logits
    found[:, layout.starts[at] : layout.ends[at]].square().sum().backward()
    return [bool(given.grad[:, start:end].abs().max() > 0) for start, end, _ in layout.spans()]

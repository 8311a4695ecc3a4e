"""How a model is held under a layout: restored after, apart in threads and tasks, and what is refused."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, StaticCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from planloom.context.attention import blockrow
from planloom.context.attention.apply import NAME, apply, register
from planloom.context.mask_cache import MaskCache
from planloom.errors import ConfigError
from planloom.plan.gasa import GasaPolicy
from tests.local.layouts import chain, complete
from tests.local.tiny import tiny, tokens

ALONE = GasaPolicy(max_hops=0)
LAYOUT = chain([9, 10, 11], policy=ALONE)
OPEN = complete([9, 10, 11])
PROMPT = tokens(LAYOUT.n)


def logits(model: Any, prompt: Any = PROMPT, **more: Any) -> Any:
    with torch.no_grad():
        return model(prompt, **more).logits


def test_a_model_is_as_it_was_afterwards_and_after_an_error(llama: Any) -> None:
    before, dense = llama.config._attn_implementation, logits(llama)

    with pytest.raises(IndexError), apply(llama, LAYOUT):
        logits(llama, PROMPT + 10**6)

    assert llama.config._attn_implementation == before
    assert not llama.base_model._forward_pre_hooks
    assert torch.equal(logits(llama), dense)


def test_the_inner_layout_counts_and_then_the_outer_one_again(llama: Any) -> None:
    dense = logits(llama)

    with apply(llama, LAYOUT):
        outer = logits(llama)
        with apply(llama, OPEN):
            inner = logits(llama)
        again = logits(llama)

    assert torch.equal(inner, dense)
    assert not torch.equal(outer, dense)
    assert torch.equal(again, outer)


def test_a_layout_is_of_one_model_and_no_other(llama: Any) -> None:
    other = tiny("llama", seed=1)
    dense = logits(other)
    with apply(llama, LAYOUT):
        masked = logits(llama)

    with apply(llama, LAYOUT), apply(tiny("qwen2"), OPEN):
        beside, both = logits(other), logits(llama)

    assert torch.equal(beside, dense)
    assert torch.equal(both, masked)


def test_models_made_of_one_config_are_told_apart(llama: Any) -> None:
    twin = type(llama)(llama.config).eval()
    dense = logits(twin)

    with apply(llama, LAYOUT):
        beside = logits(twin)

    assert torch.equal(beside, dense)


def test_each_thread_follows_its_own_layout_or_none(llama: Any) -> None:
    dense = logits(llama)
    with apply(llama, LAYOUT):
        masked = logits(llama)
    barrier = threading.Barrier(3)
    found: dict[str, list[Any]] = {"masked": [], "open": [], "none": []}

    def under(name: str, layout: Any) -> None:
        barrier.wait()
        for _ in range(10):
            with apply(llama, layout):
                found[name].append(logits(llama))

    def plainly() -> None:
        barrier.wait()
        for _ in range(10):
            found["none"].append(logits(llama))

    threads = [
        threading.Thread(target=under, args=("masked", LAYOUT)),
        threading.Thread(target=under, args=("open", OPEN)),
        threading.Thread(target=plainly),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(torch.equal(one, masked) for one in found["masked"])
    assert all(torch.equal(one, dense) for one in (*found["open"], *found["none"]))
    assert [len(answers) for answers in found.values()] == [10, 10, 10]
    assert llama.config._attn_implementation == "sdpa"


def test_who_has_no_layout_goes_on_behind_a_cache_causally(llama: Any) -> None:
    dense = logits(llama)

    def elsewhere(answers: list[Any]) -> None:
        with torch.no_grad():
            begun = llama(PROMPT[:, :20], use_cache=True)
            answers.append(llama(PROMPT[:, 20:], past_key_values=begun.past_key_values).logits)

    answers: list[Any] = []
    with apply(llama, LAYOUT):
        thread = threading.Thread(target=elsewhere, args=(answers,))
        thread.start()
        thread.join()

    torch.testing.assert_close(answers[0], dense[:, 20:], atol=1e-4, rtol=0)


def test_a_pass_under_way_goes_on_as_it_began_when_the_layout_is_left_elsewhere(llama: Any) -> None:
    dense = logits(llama)
    inside, left, answers = threading.Event(), threading.Event(), []

    def elsewhere() -> None:
        with torch.no_grad():
            begun = llama(PROMPT[:, :20], use_cache=True)
            handle = llama.model.layers[1].register_forward_pre_hook(
                lambda *_: (inside.set(), left.wait(30))[:0] or None
            )
            answers.append(llama(PROMPT[:, 20:], past_key_values=begun.past_key_values).logits)
            handle.remove()

    thread = threading.Thread(target=elsewhere)
    with apply(llama, LAYOUT):
        thread.start()
        inside.wait(30)
    during = llama.config._attn_implementation
    left.set()
    thread.join()

    assert (during, llama.config._attn_implementation) == (NAME, "sdpa")
    torch.testing.assert_close(answers[0], dense[:, 20:], atol=1e-4, rtol=0)


def test_a_pass_that_fails_holds_nothing(llama: Any) -> None:
    with apply(llama, LAYOUT):
        with pytest.raises(IndexError):
            logits(llama, PROMPT + 10**6)
        with pytest.raises(ConfigError):
            logits(llama, PROMPT.repeat(2, 1))

    assert llama.config._attn_implementation == "sdpa"
    assert not llama.base_model._forward_pre_hooks
    assert not llama.base_model._forward_hooks


def test_transformers_makes_no_mask_for_it() -> None:
    register()
    register()

    assert NAME in AttentionInterface()
    assert NAME not in ALL_MASK_ATTENTION_FUNCTIONS


def test_tables_are_kept_by_who_reads_whom_and_not_by_the_text(llama: Any) -> None:
    masks = MaskCache(8)

    for seed in (1, 2):
        with apply(llama, LAYOUT, backend="sdpa_mask", masks=masks):
            logits(llama, tokens(LAYOUT.n, seed=seed))

    assert masks.misses == 1


@pytest.mark.parametrize(
    ("prompt", "more", "said"),
    [
        (PROMPT.repeat(2, 1), {}, "2 prompts at a time"),
        (PROMPT, {"attention_mask": (torch.arange(PROMPT.shape[1]) > 2).long()[None]}, "padding"),
        (PROMPT, {"attention_mask": torch.zeros(1, 1, PROMPT.shape[1], PROMPT.shape[1])}, "a mask of the caller's own"),
    ],
    ids=["batch", "padding", "mask"],
)
def test_a_prompt_that_needs_another_mask_is_refused(llama: Any, prompt: Any, more: Any, said: str) -> None:
    with apply(llama, LAYOUT), pytest.raises(ConfigError, match=said):
        logits(llama, prompt, **more)


def test_a_cache_with_empty_places_is_refused(llama: Any) -> None:
    kept = StaticCache(config=llama.config, max_cache_len=64)

    with apply(llama, LAYOUT), pytest.raises(ConfigError, match="a static cache"):
        logits(llama, past_key_values=kept)


def test_dropout_is_refused() -> None:
    model = tiny("llama", attention_dropout=0.1).train()

    with apply(model, LAYOUT), pytest.raises(ConfigError, match="dropout"):
        logits(model)


@pytest.mark.parametrize("backend", ["packing", "off", "nothing"])
def test_a_backend_that_masks_nothing_is_refused(llama: Any, backend: Any) -> None:
    with pytest.raises(ConfigError, match="no backend of a mask"), apply(llama, LAYOUT, backend=backend):
        pass


def test_a_model_that_leaks_is_refused_by_name() -> None:
    model = tiny("mistral", sliding_window=16)

    with pytest.raises(ConfigError, match="mistral: a sliding window of 16 tokens"), apply(model, LAYOUT):
        pass


def test_what_the_backend_has_to_do_without_is_told(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with apply(llama, LAYOUT) as fused:
        fast = logits(llama)
    monkeypatch.setattr(blockrow, "FUSED", False)
    with apply(llama, LAYOUT) as without:
        slow = logits(llama)

    assert (fused.backend, fused.note, without.backend) == ("blockrow", "", "blockrow")
    assert "log-sum-exp" in without.note
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=0)


def test_the_kernel_of_this_torch_is_used() -> None:
    """A torch that lost it would still be right, and slow: that should be seen here first."""
    assert blockrow.FUSED


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_whole_prompt_goes_by_blocks_and_pieces_and_gradients_do_not(llama: Any) -> None:
    masks, explicit = MaskCache(8), MaskCache(8)
    with apply(llama, LAYOUT, backend="sdpa_mask", masks=explicit):
        wanted = logits(llama)

    with apply(llama, LAYOUT, backend="flex", masks=masks):
        with torch.no_grad():
            begun = llama(PROMPT[:, :15], use_cache=True)
            rest = llama(PROMPT[:, 15:], past_key_values=begun.past_key_values).logits
        sloped = llama(PROMPT).logits
        by_runs = masks.misses
        whole = logits(llama)

    assert (by_runs, masks.misses) == (0, 1)
    pieces = torch.cat([begun.logits, rest], dim=1)
    for found in (pieces, sloped.detach(), whole):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)

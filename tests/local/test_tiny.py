"""The small models of these tests."""

from __future__ import annotations

from typing import Any

import torch

from tests.local.tiny import tiny, tokens


def test_the_same_name_and_seed_make_the_same_model() -> None:
    prompt = tokens(12)

    with torch.no_grad():
        first, second, other = (tiny("llama", seed=seed)(prompt).logits for seed in (1, 1, 2))

    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_small_model_writes_on(model: Any) -> None:
    prompt = tokens(12)

    with torch.no_grad():
        written = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False)

    assert written.shape == (1, 16)

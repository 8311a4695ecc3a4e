"""Language models small enough to make in a test: seeded random weights, float32, nothing on disk, nothing downloaded.

Rule 1: weights are drawn wide (`SPREAD`), so that attention matters: a mask that does nothing would not go unseen.
Rule 2: the same name and seed give the same weights in every process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 128
LONGEST = 4096
LAYERS, HIDDEN, HEADS, KEY_HEADS = 3, 64, 4, 2
SPREAD = 0.15

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_HEADS,
    "max_position_embeddings": LONGEST,
    "initializer_range": SPREAD,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _llama(**changed: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**_COMMON | changed))


def _qwen2(**changed: Any) -> Any:
    return Qwen2ForCausalLM(Qwen2Config(**_COMMON | changed))


def _qwen3(**changed: Any) -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**_COMMON | {"head_dim": HIDDEN // HEADS} | changed))


def _mistral(**changed: Any) -> Any:
    return MistralForCausalLM(MistralConfig(**_COMMON | {"sliding_window": None} | changed))


def _gpt2(**changed: Any) -> Any:
    named = {
        "vocab_size": VOCABULARY,
        "n_embd": HIDDEN,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_positions": LONGEST,
        "initializer_range": SPREAD,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return GPT2LMHeadModel(GPT2Config(**named | changed))


MAKERS: dict[str, Callable[..., Any]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "gpt2": _gpt2,
}
ARCHITECTURES = tuple(MAKERS)


def tiny(architecture: str, *, seed: int = 0, **changed: Any) -> Any:
    """Return a new random model; `changed` goes into its config."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MAKERS[architecture](**changed)
    model.generation_config.pad_token_id = 0  # Without one `generate` warns, and warnings are errors here.
    return model.eval()


@cache
def shared(architecture: str, seed: int = 0) -> Any:
    """Return the random model of this name: made once a process, so leave it as it was."""
    return tiny(architecture, seed=seed)


def tokens(count: int, *, seed: int = 0) -> Any:
    """Return the ids of a random prompt, of shape (1, count)."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (1, count), generator=drawn)

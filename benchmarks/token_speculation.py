"""Token-level speculation beside plain generation by transformers, on a model that quotes its prompt.

The model computes as any of its size does, but its layers add nothing: the last token alone says which comes next, so
that it is known to quote. How much a trained model quotes decides what it gains.

Without torch and transformers there are no rows.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.rows import Budget, Row
from benchmarks.timing import Arm, Scale, cpu_s, in_turns

HIDDEN, LAYERS, VOCABULARY = 512, 6, 512
QUOTED = 128
"""Tokens of the prompt that the answer repeats."""
BEFORE = 256
"""Tokens of the prompt that it does not."""


async def measure(scale: Scale, folder: Path) -> list[Row]:
    """Return CPU seconds of one core for an answer, by our loop and by transformers' own plain one."""
    if find_spec("torch") is None or find_spec("transformers") is None:
        return []
    import torch

    quoted = scale.of(QUOTED)
    model, prompt = _quoting(), _prompt(quoted)
    arms = [_plain(model, prompt, quoted), _ours(model, prompt, quoted, False), _ours(model, prompt, quoted, True)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain_s, same_s, sped_s = (median(seconds) for seconds in await in_turns(*arms, rounds=scale.rounds(7)))
    finally:
        torch.set_num_threads(threads)
    why = "the answer quotes less of the prompt than it is known to"
    return [
        Row(
            f"{QUOTED} tokens quoted from the prompt, n-grams looked up",
            "s",
            sped_s,
            plain_s,
            "transformers, greedy",
            Budget(1 / 1.5, 1 / 2.2, why=why, front=False),
        ),
        Row(f"{QUOTED} tokens, nothing looked up", "s", same_s, plain_s, "transformers, greedy"),
    ]


def _prompt(quoted: int) -> list[int]:
    """Return numbers that say nothing, then what is quoted, then the sign to begin."""
    return [*(256 + at % 128 for at in range(BEFORE)), *range(1, quoted + 1), 0]


def _quoting() -> Any:
    """Return a model whose answer to any prompt that ends in 0 is 1, 2, 3, …"""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    model.generation_config.pad_token_id = VOCABULARY - 1
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(VOCABULARY, HIDDEN))
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.copy_(torch.eye(VOCABULARY, HIDDEN).roll(1, dims=0))
    return model


def _plain(model: Any, prompt: list[int], most: int) -> Arm:
    import torch

    ids = torch.tensor([prompt])
    wanted = {"max_new_tokens": most, "do_sample": False, "attention_mask": torch.ones_like(ids)}

    async def arm() -> float:
        begun_at = cpu_s()
        said = model.generate(ids, **wanted)[0, len(prompt) :].tolist()
        took_s = cpu_s() - begun_at
        assert said == list(range(1, most + 1))
        return took_s

    return arm


def _ours(model: Any, prompt: list[int], most: int, looks_up: bool) -> Arm:
    from planloom.models.local.candidates import Lookup
    from planloom.models.local.decode import Decoding, greedy

    async def arm() -> float:
        begun_at = cpu_s()
        candidates = Lookup() if looks_up else None
        decoding = Decoding(model, prompt, most, frozenset(), greedy, candidates=candidates)
        decoding.run(lambda _: False)
        took_s = cpu_s() - begun_at
        assert decoding.tokens == list(range(1, most + 1))
        return took_s

    return arm

"""Which models are refused, and how large those that are not are taken to be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from planloom.context.attention.apply import apply, cannot_mask
from planloom.context.attention.refusals import leaks
from planloom.context.attention.shape import shape_of
from planloom.plan.gasa import GasaPolicy
from tests.local.layouts import complete, joined
from tests.local.tiny import ARCHITECTURES, HEADS, HIDDEN, LAYERS, VOCABULARY, shared, tokens

REFUSED = {
    "sliding window": ("MistralConfig", {"sliding_window": 4096, "max_position_embeddings": 32768}, "a sliding window"),
    "layers of a window": ("Gemma2Config", {}, "layers of sliding_attention"),
    "chunked attention": ("Llama4TextConfig", {}, "layers of chunked_attention"),
    "linear attention": ("Qwen3NextConfig", {}, "layers of linear_attention"),
    "convolution": ("Lfm2Config", {}, "convolutions over tokens"),
    "state space": ("MambaConfig", {}, "mamba: state-space layers"),
    "hybrid": ("JambaConfig", {}, "jamba"),
    "recurrent": ("RecurrentGemmaConfig", {}, "recurrent_gemma"),
    "alibi": ("BloomConfig", {}, "bloom: position bias"),
    "alibi by setting": ("FalconConfig", {"alibi": True}, "falcon: position bias"),
    "encoder and decoder": ("T5Config", {}, "encoder-decoder"),
    "several parts": ("LlavaConfig", {}, "several parts"),
    "capped scores": ("LlamaConfig", {"attn_logit_softcapping": 50.0}, "scores capped"),
    "sinks": ("GptOssConfig", {"layer_types": ["full_attention"] * 36, "sliding_window": None}, "attention sinks"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_carries_one_chunk_into_the_next_is_refused_by_name(case: str) -> None:
    name, settings, said = REFUSED[case]
    config = getattr(transformers, name)(**settings)

    reason = leaks(config)

    assert reason is not None
    assert said in reason


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("LlamaConfig", {}),
        ("Qwen2Config", {}),
        ("Qwen3Config", {}),
        ("Qwen3MoeConfig", {}),
        ("MixtralConfig", {"sliding_window": None}),
        ("GPT2Config", {}),
        ("GPTNeoXConfig", {}),
        ("OlmoConfig", {}),
        ("GraniteConfig", {}),
        ("PhiConfig", {}),
        ("SmolLM3Config", {}),
        ("MistralConfig", {"sliding_window": 4096, "max_position_embeddings": 4096}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_plain_causal_attention_is_not_refused(name: str, settings: dict[str, Any]) -> None:
    assert leaks(getattr(transformers, name)(**settings)) is None


def test_a_model_that_writes_nothing_is_refused() -> None:
    model = transformers.BertModel(
        transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )

    assert cannot_mask(model) == "BertModel: no causal language model"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_shape_counts_what_a_token_is_multiplied_with(architecture: str) -> None:
    model = shared(architecture)
    counted = sum(
        weight.numel()
        for name, weight in model.base_model.named_parameters()
        if weight.ndim == 2 and not any(part in name for part in ("embed", "wte", "wpe"))
    )

    shape = shape_of(model.config)

    assert (shape.layers, shape.heads, shape.head_dim) == (LAYERS, HEADS, HIDDEN // HEADS)
    assert shape.parameters == counted


def test_the_shape_of_an_eight_billion_model_is_known() -> None:
    config = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
    )

    assert shape_of(config).parameters == pytest.approx(6.98e9, rel=0.01)


def test_experts_count_as_many_as_a_token_is_sent_to() -> None:
    config = transformers.MixtralConfig(sliding_window=None)

    assert shape_of(config).parameters == pytest.approx(12.6e9, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Mixtral", "Phi3", "Granite", "Olmo2", "Glm4", "Gemma", "StableLm", "OPT", "GPTNeoX"])
def test_other_plain_architectures_keep_chunks_apart_too(name: str) -> None:
    layout = joined([10, 10, 10], [(1, 0)], policy=GasaPolicy(max_hops=1))
    open_layout = complete([10, 10, 10])
    model = _small(name)
    prompt = tokens(layout.n)
    other = prompt.clone()
    other[0, layout.starts[1] : layout.ends[1]] = tokens(10, seed=1)

    with torch.no_grad():
        dense = model(prompt).logits
        with apply(model, open_layout):
            unmasked = model(prompt).logits
        with apply(model, layout):
            before, after = model(prompt).logits, model(other).logits

    second, third = (slice(layout.starts[at], layout.ends[at]) for at in (2, 3))
    assert torch.equal(unmasked, dense)
    assert torch.equal(before[:, third], after[:, third])
    assert not torch.equal(before[:, second], after[:, second])


def _small(name: str) -> Any:
    made = getattr(transformers, f"{name}Config")
    wanted = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "word_embed_proj_dim": HIDDEN,
        "intermediate_size": HIDDEN,
        "ffn_dim": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "head_dim": HIDDEN // HEADS,
        "num_local_experts": 2,
        "sliding_window": None,
        "pad_token_id": None,
    }
    known = made()
    settings = {setting: value for setting, value in wanted.items() if hasattr(known, setting)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{name}ForCausalLM")(made(**settings)).eval()

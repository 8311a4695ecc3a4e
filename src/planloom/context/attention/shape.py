"""How much work a model is, from its config: `shape_of`.

Rule 1: parameters are those that a token is multiplied with: no embeddings, and only the experts it is sent to.
Rule 2: an estimate, for whether a mask pays; biases and norms are left out.
"""

from __future__ import annotations

from typing import Any

from planloom.context.saving import ModelShape

TWO_MATRICES = ("gpt2", "gpt_neox", "gptj", "gpt_bigcode", "codegen", "opt", "phi", "falcon", "starcoder2", "nemotron")
"""Models whose feed-forward layer has an input and an output matrix; that of all others has a gate besides."""


def shape_of(config: Any) -> ModelShape:
    """Return what the work of a model of this config depends on.

    Args:
        config: Of transformers (`model.config`).
    """
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    layers = int(config.num_hidden_layers)
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(config, "head_dim", None) or hidden // heads)
    attention = hidden * head_dim * 2 * (heads + key_heads)
    return ModelShape(layers, heads, head_dim, layers * (attention + _feed_forward(config, hidden)))


def _feed_forward(config: Any, hidden: int) -> int:
    """Return the parameters of a layer that come after its attention, as many as one token meets."""
    matrices = 2 if getattr(config, "model_type", "") in TWO_MATRICES else 3
    wide = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden
    met = getattr(config, "num_experts_per_tok", None)
    if met:
        wide = met * (getattr(config, "moe_intermediate_size", None) or wide)
    return matrices * hidden * int(wide)

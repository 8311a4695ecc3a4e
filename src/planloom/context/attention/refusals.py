"""Which models cannot be masked: `leaks` says what in them carries one chunk into another.

Rule 1: judged by what the config says a layer does, then by name where the config does not say. A model that is
refused is not run under a mask; it is run without one, and `gasa_stats` tells why.
Rule 2: what is allowed is softmax attention over all tokens before, and layers that take each token by itself. A
window, a convolution or a state goes from chunk to chunk whatever the mask says.
"""

from __future__ import annotations

from typing import Any

PLAIN = ("full_attention", "attention", "global", "dense", "sparse")
"""Layers that attend to all before them, or (the last two) take each token by itself."""

STATEFUL = {
    "mamba_d_state": "state-space layers",
    "mamba_d_conv": "state-space layers",
    "ssm_state_size": "state-space layers",
    "state_size": "state-space layers",
    "time_step_rank": "state-space layers",
    "lru_width": "recurrent layers",
    "conv_L_cache": "convolutions over tokens",
    "conv_kernel_size": "convolutions over tokens",
    "linear_conv_kernel_dim": "linear attention",
    "linear_attn_config": "linear attention",
    "linear_key_head_dim": "linear attention",
    "attn_layer_indices": "layers that are not attention",
    "layers_block_type": "layers that are not attention",
    "index_topk": "a choice of keys over all chunks",
    "attention_chunk_size": "attention in chunks of its own",
}
"""Settings that only models with such layers have."""

BY_NAME = {
    "bloom": "position bias (ALiBi)",
    "mpt": "position bias (ALiBi)",
    "rwkv": "recurrent layers",
    "xlstm": "recurrent layers",
    "recurrent_gemma": "recurrent layers",
    "mamba": "state-space layers",
    "mamba2": "state-space layers",
    "falcon_mamba": "state-space layers",
    "minimax": "linear attention",
    "kimi_linear": "linear attention",
    "gpt_neo": "attention in a window",
    "reformer": "attention in a window",
    "xlnet": "position bias",
    "transfo-xl": "position bias",
    "gpt_oss": "attention sinks that every query reads",
    "blt": "patches of bytes that span chunks",
    "gemma3n": "convolutions over tokens",
    "diffllama": "a difference of two attentions",
    "doge": "a mask of its own",
}


def leaks(config: Any) -> str | None:
    """Return why a model of this config cannot be masked, with its name; None where it can.

    Args:
        config: Of transformers (`model.config`).
    """
    reason = _reason(config)
    return f"{_name(config)}: {reason}" if reason else None


def _reason(config: Any) -> str | None:
    if getattr(config, "is_encoder_decoder", False):
        return "an encoder reads the whole prompt both ways (encoder-decoder)"
    if getattr(config, "sub_configs", None) and any(hasattr(config, name) for name in ("vision_config", "text_config")):
        return "a model of several parts, of which text is one"
    if getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", None):
        return "attention both ways"
    kind = str(getattr(config, "model_type", ""))
    if kind in BY_NAME:
        return f"{BY_NAME[kind]}: more than a mask of tokens is at work"
    kinds = sorted({str(kind) for kind in getattr(config, "layer_types", None) or ()} - set(PLAIN))
    if kinds:
        return f"layers of {' and '.join(kinds)}, which carry what one chunk says into the next"
    return _window(config) or _position_bias(config) or _stateful(config)


def _window(config: Any) -> str | None:
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and window >= longest:
        return None
    return f"a sliding window of {window} tokens, which is a mask of its own"


def _position_bias(config: Any) -> str | None:
    if getattr(config, "alibi", False):
        return "position bias (ALiBi), which no kernel here adds"
    if getattr(config, "position_embedding_type", "absolute") not in ("absolute", "rope", "rotary", None):
        return f"position bias ({config.position_embedding_type}), which no kernel here adds"
    if getattr(config, "relative_attention_num_buckets", None):
        return "position bias in buckets, which no kernel here adds"
    if getattr(config, "attn_logit_softcapping", None):
        return "scores capped by a curve, which no kernel here draws"
    return None


def _stateful(config: Any) -> str | None:
    for setting, what in STATEFUL.items():
        if getattr(config, setting, None) not in (None, 0, False, [], {}):
            return f"{what} ({setting}), which carry what one chunk says into the next"
    return None


def _name(config: Any) -> str:
    names = getattr(config, "architectures", None) or ()
    return str(names[0] if names else getattr(config, "model_type", "") or type(config).__name__)

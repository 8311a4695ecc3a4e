"""Models in folders, as `transformers://` reads them: a tokenizer of single bytes, and weights that are known.

Rule 1: `reciting` makes a model whose next token depends on the last one alone and is known: what it will say is known
without running it. Its layers compute all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BYTES = 256
BEGIN, END, SYSTEM, USER, ASSISTANT = range(BYTES, BYTES + 5)
MARKS = ("<s>", "</s>", "<system>", "<user>", "<assistant>")
VOCABULARY = BYTES + len(MARKS)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(*, template: str | None = TEMPLATE) -> Any:
    """Return a tokenizer whose tokens are bytes, 0 to 255, and the marks of a chat."""
    made = Tokenizer(models.BPE(vocab=_bytes(), merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=MARKS[0], eos_token=MARKS[1], additional_special_tokens=list(MARKS[2:])
    )
    found.chat_template = template
    return found


@cache
def _bytes() -> dict[str, int]:
    """Return each byte's sign, as tokenizers of bytes write it, numbered by the byte."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = {number: chr(number) for number in shown}
    hidden = (number for number in range(BYTES) if number not in signs)
    signs |= {number: chr(BYTES + at) for at, number in enumerate(hidden)}
    return {signs[number]: number for number in range(BYTES)}


def saved(folder: Path, model: Any, *, template: str | None = TEMPLATE) -> Path:
    """Write a model and the tokenizer into a folder; return it."""
    model.generation_config.eos_token_id = END
    model.save_pretrained(folder)
    tokenizer(template=template).save_pretrained(folder)
    return folder


def ids_of(text: str) -> list[int]:
    return list(text.encode())


def reciting(text: str, *, wrong: Mapping[int, int] | None = None, window: int = 4096, **changed: Any) -> Any:
    """Return a model that answers `text`, each of its bytes another one, and ends.

    Args:
        wrong: Place in the answer → token said there instead; the answer goes on as if nothing had happened.
        changed: Into its config; the hidden size must be even and no less than the vocabulary.
    """
    assert len(set(ids_of(text))) == len(ids_of(text)), "each byte once: the last one says which comes next"
    path = [*ids_of(text), END]
    follows = dict(zip([ASSISTANT, *path], path, strict=False))
    sizes = {
        "hidden_size": 272,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": window,
    }
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=False, **sizes | changed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    says = dict(follows)
    for place, token in (wrong or {}).items():
        says[([ASSISTANT, *path])[place]] = token
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[range(VOCABULARY), range(VOCABULARY)] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for last, following in says.items():
            model.lm_head.weight[following, last] = 1.0
    return model

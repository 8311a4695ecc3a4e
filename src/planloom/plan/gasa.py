"""How a model step reads its documents: `GasaPolicy`, of graph-aligned sparse attention.

Rule 1: it decides who may be read and in what order; what documents there are, and how they hang together, is with the
step's arguments.
Rule 2: one config for models that can be masked and for those that can only be given less: a field that means nothing
for the one that is asked is told in `gasa_stats`, never silently obeyed in another way.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from planloom.plan.policy import Names, PositiveInt

MaskStrategy = Literal["binary", "soft"]
HopMode = Literal["layered", "strict"]
Backend = Literal["auto", "blockrow", "flex", "sdpa_mask", "packing", "off"]
Fallback = Literal["prompt_composer", "block_diagonal", "windowed", "dense", "shadow_model"]
READ_APART = frozenset({"block_diagonal", "windowed"})
"""Fallbacks that ask once for each part, and once more to put the answers together."""
MAX_PARTS = 64
"""Most parts that documents are read in; of more, neighbouring ones are read together as far as they fit."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChunkKVConfig(_Frozen):
    """Keys and values of chunks, kept for the next prompt that holds the same chunk."""

    max_bytes: PositiveInt = 1 << 30
    """Most memory for them; the longest unused go first."""
    dtype: Literal["model", "float32", "bfloat16", "float16"] = "model"
    """In which they are kept; "model": as the model makes them."""


class GasaPolicy(_Frozen):
    """Graph-aligned sparse attention: a chunk reads what the dependency graph says it depends on.

    The name users know is `GASAConfig`.
    """

    enabled: bool = True
    max_hops: Annotated[int, Field(ge=0, le=64)] = 2
    """Steps in the graph over which one chunk may read another: in each layer of the model, or in all (`hop_mode`)."""
    mask_strategy: MaskStrategy = "binary"
    """`soft`: as `binary`, and scores fall by `soft_bias` for each hop."""
    hop_mode: HopMode = "layered"
    """`layered`: the limit holds for each layer, so L layers reach L times as far. `strict`: it holds for the whole
    model; each chunk is encoded `max_hops` times more."""
    direction: Literal["both", "dependencies"] = "both"
    """Along which edges hops are counted: all, or only from a node to what it depends on."""
    order: Literal["topological", "edges", "given"] = "topological"
    """How chunks stand in the prompt: dependencies first, ties by id; the best at both ends; or as they were given. A
    chunk can only read what stands before it."""
    reader_scope: Literal["all", "hops"] = "all"
    """What the question reads: every chunk, or those within `max_hops` of an anchor; the others are left out."""
    anchors: Names = ()
    """Nodes that the question is about, for `reader_scope: hops`."""
    unknown_nodes: Literal["dense", "isolate"] = "dense"
    """A document that is no node of the graph reads and is read by all, or by itself alone."""
    positions: Literal["global", "parallel"] = "global"
    """`parallel`: every chunk begins right after the instructions, so that what is kept of it fits anywhere."""
    backend: Backend = "auto"
    """`auto`: what this model and this machine can do, and nothing where it would not pay."""
    fallback_strategy: Fallback = "prompt_composer"
    """For models that take no mask: the best chunks within `token_budget`; a call for each connected part, or for each
    window of `token_budget`, and one that merges; all documents as they are. `shadow_model` is `prompt_composer`
    counting as `shadow_model` does."""
    shadow_model: str | None = None
    """Name or address of a local model whose tokenizer counts for one that cannot be asked. It is asked nothing."""
    block_size: Annotated[int, Field(ge=16, le=4096)] = 128
    """Tokens of a block of the mask."""
    soft_bias: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    chunk_size: PositiveInt | None = None
    """Characters of a chunk; None: a document's own chunks, or the whole document."""
    chunk_overlap: Annotated[int, Field(ge=0)] = 0
    """Characters that a chunk begins before the end of the one before it."""
    min_tokens: Annotated[int, Field(ge=0)] = 2048
    """`auto` masks nothing in a shorter prompt."""
    min_saving: Annotated[float, Field(ge=0, le=1)] = 0.05
    """`auto` masks nothing where a smaller share of the work would be saved."""
    token_budget: PositiveInt | None = None
    """Most tokens of documents in one prompt; None: what the model's window leaves."""
    trust_edges: bool = False
    """Whether the graph is known to be right. If not, every other chunk is chosen by its words alone: with no graph,
    however wrong, less is found than by words in half the budget."""
    cache_masks: bool = True
    mask_cache_size: PositiveInt = 128
    add_summary_token: bool = False
    """Whether `summary_token` stands after the chunks, reads them all, and is read by the question."""
    summary_token: Annotated[str, Field(min_length=1, max_length=100)] = "[SUM]"  # noqa: S105 - no secret
    chunk_kv: ChunkKVConfig | None = None
    """None: nothing is kept between prompts."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.chunk_size is not None and self.chunk_overlap >= self.chunk_size:
            raise ValueError("chunk_overlap must be smaller than chunk_size")
        if self.fallback_strategy == "shadow_model" and self.shadow_model is None:
            raise ValueError("fallback_strategy 'shadow_model' needs shadow_model")
        if self.reader_scope == "hops" and not self.anchors:
            raise ValueError("reader_scope 'hops' needs anchors")
        return self

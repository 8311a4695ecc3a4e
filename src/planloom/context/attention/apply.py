"""Running a model under a layout: `apply`.

Rule 1: nothing is patched. transformers is told of one more attention function, once; while `apply` holds a model, the
model's config names it, and a context variable says which layout its attention follows.
Rule 2: no mask function is told of, so transformers makes no mask; padding, which only such a mask would hide, is
refused (`_refuse_what_needs_a_mask`), as is more than one prompt at a time.
Rule 3: a context variable belongs to the thread and the task that set it: enter `apply` where the model is called.
Whoever calls the same model elsewhere meanwhile gets plain causal attention (`hold.py`).
Rule 4: queries stand at the last places of the keys. What place a query has, and not how many come at once, says what
it reads: a prompt may come whole, in pieces, or with candidates of an assistant behind it.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from planloom.context.attention import blockrow, flex, sdpa_mask
from planloom.context.attention.hold import held
from planloom.context.attention.refusals import leaks
from planloom.context.attention.runs import Group, Stretch, reader_start, runs_of
from planloom.context.mask_cache import MaskCache
from planloom.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planloom.context.layout import SegmentLayout

NAME = "gasa"
"""Of the attention function, as transformers knows it."""

MaskBackend = Literal["blockrow", "flex", "sdpa_mask"]
BACKENDS: tuple[MaskBackend, ...] = ("blockrow", "flex", "sdpa_mask")


@dataclass(frozen=True, slots=True)
class Applied:
    """What a model runs under.

    Attributes:
        backend: Which does it.
        note: What the backend has to do without here; "" where nothing.
        masks: Where tables are kept from prompt to prompt.
    """

    layout: SegmentLayout
    backend: MaskBackend
    note: str
    masks: MaskCache
    _runs: OrderedDict[tuple[int, int], tuple[Stretch, ...]] = field(default_factory=OrderedDict, repr=False)

    def runs(self, start: int, stop: int) -> tuple[Stretch, ...]:
        """Return the runs of these queries; every layer asks for the same."""
        found = self._runs.get((start, stop))
        if found is None:
            found = self._runs[start, stop] = runs_of(self.layout, start, stop)
            while len(self._runs) > 4:
                self._runs.popitem(last=False)
        return found

    def blocks(self, length: int, device: Any) -> flex.Blocks:
        """Return the tables of a whole prompt of this length."""
        key = f"{self.layout.grown(length).key()} {length} {device}"
        return self.masks.get(key, lambda: flex.blocks_of(self.layout, length, device))[0]

    def bias(self, start: int, stop: int) -> Any:
        """Return the mask of these queries, token by token."""
        key = f"bias {self.layout.grown(stop).key()} {start} {stop}"
        return self.masks.get(key, lambda: sdpa_mask.score_bias(self.layout, start, stop))[0]


_ACTIVE: ContextVar[Mapping[int, Applied]] = ContextVar("planloom_gasa", default=MappingProxyType({}))
"""What each module of a model that is held here runs under, by identity. Never changed, only replaced."""


@contextmanager
def apply(
    model: Any,
    layout: SegmentLayout,
    *,
    backend: Literal["auto", "blockrow", "flex", "sdpa_mask"] = "auto",
    masks: MaskCache | None = None,
) -> Iterator[Applied]:
    """Run the model under the layout while the block lasts, in this thread or task.

    Args:
        model: A causal language model of transformers; one prompt at a time, without padding.
        layout: Of the prompt; what is written behind it is READER. `hop_mode` is the caller's business: in one pass a
            limit of hops holds for each layer.
        backend: "auto": `flex` on CUDA, else `blockrow`.
        masks: Where tables are kept from prompt to prompt; None: for this block only.

    Raises:
        ConfigError: The model cannot be masked, or the backend is none of these; inside the block, the prompt cannot.
    """
    reason = cannot_mask(model)
    if reason:
        raise ConfigError(f"this model cannot be masked: {reason}", remedy="run it without a mask, or another model")
    chosen = _chosen(model, backend)
    note = "" if chosen != "blockrow" or blockrow.FUSED else "torch's kernel that tells its log-sum-exp is not here"
    applied = Applied(layout, chosen, note, MaskCache(4) if masks is None else masks)
    register()
    here = {id(module): applied for module in model.modules()}
    outside = _ACTIVE.set({**_ACTIVE.get(), **here})
    try:
        with held(model, NAME, _refuse_what_needs_a_mask):
            yield applied
    finally:
        _ACTIVE.reset(outside)


def register() -> None:
    """Tell transformers of the attention function; more than once is the same as once."""
    AttentionInterface.register(NAME, attend)


def cannot_mask(model: Any) -> str | None:
    """Return why this model cannot be run under a layout; None where it can."""
    reason = leaks(model.config)
    if reason:
        return reason
    if not getattr(model, "can_generate", bool)():
        return f"{type(model).__name__}: no causal language model"
    settable = getattr(type(model), "_can_set_attn_implementation", None)
    if settable is not None and not settable():
        return f"{type(model).__name__}: it has attention of its own, which transformers cannot replace"
    return None


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Any, None]:
    """Return what the queries of one layer read, as transformers' attention functions do."""
    applied = _ACTIVE.get().get(id(module))
    start, stop = key.shape[2] - query.shape[2], key.shape[2]
    if applied is None:
        if start and query.shape[2] > 1 and attention_mask is None:
            return _plain(query, key, value, start, scaling), None
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **more
        )
    _refuse_what_no_backend_does(module, query, attention_mask, dropout, is_causal, more)
    if query.shape[2] == 1 and start >= reader_start(applied.layout):
        return sdpa_attention_forward(module, query, key, value, None, scaling=scaling, is_causal=False)  # type: ignore[no-any-return]
    if applied.backend == "sdpa_mask":
        return sdpa_mask.by_mask(query, key, value, applied.bias(start, stop), scale=scaling), None
    runs = applied.runs(start, stop)
    if applied.backend == "flex" and start == 0 and _flex_can(applied, query, runs):
        return flex.by_blocks(query, key, value, applied.blocks(stop, query.device), scale=scaling), None
    return blockrow.by_runs(query, key, value, runs, scale=scaling), None


def _flex_can(applied: Applied, query: Any, runs: tuple[Stretch, ...]) -> bool:
    """Return whether a prompt goes by blocks: all of it is here, there is something to leave out, and no gradient."""
    whole = query.shape[2] >= applied.layout.n
    plain = len(runs) == 1 and not runs[0].groups
    return whole and not plain and not (torch.is_grad_enabled() and query.requires_grad)


def _plain(query: Any, key: Any, value: Any, start: int, scale: float | None) -> Any:
    """Return causal attention of queries behind a cache, which transformers does with a mask that is not made here."""
    run = Stretch(start, key.shape[2], (Group(((0, start),), 0.0),))
    return blockrow.by_masks(query, key, value, (run,), scale=scale)


def _refuse_what_no_backend_does(
    module: Any, query: Any, attention_mask: Any, dropout: float, is_causal: bool | None, more: Mapping[str, Any]
) -> None:
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    wrong = None
    if query.shape[0] != 1:
        wrong = f"{query.shape[0]} prompts at a time"
    elif attention_mask is not None:
        wrong = "a mask of the caller's own"
    elif dropout:
        wrong = "dropout"
    elif not causal:
        wrong = "attention both ways"
    else:
        given = [name for name in ("softcap", "s_aux", "position_bias", "sinks") if more.get(name) is not None]
        wrong = f"attention with {given[0]}" if given else None
    if wrong:
        raise _refused(wrong)


def _refused(what: str) -> ConfigError:
    return ConfigError(
        f"a prompt under a layout cannot be run with {what}",
        remedy="give one prompt without padding to a model in eval mode, with the cache that grows; or leave the mask",
    )


def _chosen(model: Any, backend: str) -> MaskBackend:
    if backend == "auto":
        return "flex" if model.device.type == "cuda" else "blockrow"
    for known in BACKENDS:
        if backend == known:
            return known
    raise ConfigError(f"no backend of a mask: {backend!r}", remedy=f"use one of: auto, {', '.join(BACKENDS)}")


def _refuse_what_needs_a_mask(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse padding and caches with empty places: while a model is held, no mask hides them."""
    given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    given = {**given.pop("kwargs", {}), **given}
    mask, kept = given.get("attention_mask"), given.get("past_key_values")
    if mask is not None and getattr(mask, "ndim", 0) == 2 and not bool((mask != 0).all()):
        raise _refused("padding")
    if getattr(kept, "is_compileable", False):
        raise _refused("a static cache, whose empty places only a mask hides")

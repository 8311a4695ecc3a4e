"""Keys that move: turning what a rotary model made at one position into what it would have made at another.

Rule 1: moving is offered only where, and as far as, it was seen to work: the model itself encodes a few tokens at two
positions, and its own keys at one, turned, must be its keys at the other, in every layer, with the same values. Far out
the model's own positions are rounded so much that this ends (`Rotation.reach`).
Rule 2: angles are taken as the model takes them (position times frequency in float32) and subtracted in float64, so
that a chunk moved far is as exact as one moved by a token; the keys are turned in float32.
Rule 3: where frequencies depend on how long the prompt is, nothing may be kept, and `length_dependent` says so by name.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache

_LENGTH_DEPENDENT = ("yarn", "dynamic", "longrope")
_CHANGED_BY_LENGTH = ("dynamic", "longrope")
"""Whose frequencies this version of transformers works out anew for each length."""
_PROBED_TOKENS = 24
_NEAREST, _FARTHEST = 256, 65_536
_TOLERANCE = 1.2e-5
"""Of a layer's largest key or value. Logits were then off by less than 1e-5 of the largest one, even where the model
read nothing but what was moved."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """How a model turns its keys: halves of a head's numbers in pairs, each pair at its own frequency.

    Attributes:
        frequencies: Radians per position, one for each pair.
        reach: Up to this position keys can be moved exactly.
    """

    frequencies: torch.Tensor
    reach: int = 0

    def moved(self, keys: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Return keys (1, heads, tokens, size) made at positions `old` as they would have been made at `new`."""
        cos, sin = self.turn(old, new)
        return self.turned(keys, cos, sin)

    def turn(self, old: torch.Tensor, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and sine, (tokens, pairs) in float32, from `old` to `new`: the same in each layer."""
        frequencies = self.frequencies.to(old.device, torch.float32)
        before, after = (positions.float()[:, None] * frequencies for positions in (old, new))
        angle = after.double() - before.double()
        return angle.cos().float(), angle.sin().float()

    def turned(self, keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return keys turned by the way that `turn` found."""
        first, second = keys.float().chunk(2, dim=-1)
        found = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
        return found.to(keys.dtype)


def length_dependent(config: Any) -> str | None:
    """Return why nothing of this model may be kept for another prompt, naming its positions; None: it may.

    Args:
        config: The model's.
    """
    found = _rope_type(config, _LENGTH_DEPENDENT)
    if found is None:
        return None
    return f"rope type {found!r}: its keys depend on how long the prompt is, so none are kept"


def changed_by_length(config: Any) -> str | None:
    """Return why chunks of this model cannot be encoded one by one, naming its positions; None: they can."""
    found = _rope_type(config, _CHANGED_BY_LENGTH)
    if found is None:
        return None
    return f"rope type {found!r}: its positions depend on how long the prompt is, so chunks cannot be encoded apart"


def rope_parameters(config: Any) -> Any:
    """Return what the config says of rotary positions: JSON."""
    text = config.get_text_config(decoder=True)
    return {
        "parameters": getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None),
        "theta": getattr(text, "rope_theta", None),
        "longest": getattr(text, "max_position_embeddings", None),
        "partial": getattr(text, "partial_rotary_factor", None),
    }


def rotation_of(model: Any) -> Rotation | None:
    """Return how this model's keys can be moved; None: they cannot, or not exactly.

    The first call for a model lets it encode a few tokens, up to eleven times.
    """
    with suppress(KeyError):
        return _SEEN[model]
    found = _probed(model)
    _SEEN[model] = found
    return found


_SEEN: WeakKeyDictionary[Any, Rotation | None] = WeakKeyDictionary()


def _probed(model: Any) -> Rotation | None:
    if model.dtype is not torch.float32 or length_dependent(model.config) is not None:
        return None
    buffers = {name: buffer for name, buffer in model.named_buffers() if name.rsplit(".", 1)[-1] == "inv_freq"}
    distinct: list[torch.Tensor] = []
    for buffer in buffers.values():
        if not any(torch.equal(buffer, other) for other in distinct):
            distinct.append(buffer)
    if len(distinct) != 1:
        return None
    rotation = Rotation(distinct[0].detach().clone())
    at_start = _encoded(model, 0)
    if not _moves(rotation, at_start, _encoded(model, 1), 1):
        return None
    longest = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None) or _FARTHEST
    reach, by = 0, _NEAREST
    while by <= min(_FARTHEST, longest - _PROBED_TOKENS) and _moves(rotation, at_start, _encoded(model, by), by):
        reach, by = by, 2 * by
    return replace(rotation, reach=reach) if reach else None


def _encoded(model: Any, first: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    ids = torch.arange(_PROBED_TOKENS, device=model.device)[None]
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model.base_model(input_ids=ids, position_ids=ids + first, past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def _moves(
    rotation: Rotation,
    old: list[tuple[torch.Tensor, torch.Tensor]],
    new: list[tuple[torch.Tensor, torch.Tensor]],
    by: int,
) -> bool:
    for (keys, values), (wanted, same) in zip(old, new, strict=True):
        if keys.shape[-1] != 2 * rotation.frequencies.shape[0]:
            return False
        positions = torch.arange(keys.shape[-2], device=keys.device)
        found = rotation.moved(keys, positions, positions + by)
        for one, other in ((found, wanted), (values, same)):
            if not bool((one - other).abs().max() <= _TOLERANCE * other.abs().max()):
                return False
    return True


def _rope_type(config: Any, names: tuple[str, ...]) -> str | None:
    """Return which of these kinds of rotary positions the config speaks of, wherever it does."""
    parameters = rope_parameters(config)["parameters"]
    said = [parameters, *parameters.values()] if isinstance(parameters, dict) else []
    kinds = [str(one.get("rope_type") or one.get("type")) for one in said if isinstance(one, dict)]
    return next((kind for kind in kinds for name in names if name in kind), None)

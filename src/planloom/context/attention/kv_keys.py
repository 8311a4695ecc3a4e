"""By what the keys and values of a chunk are kept: everything that made them, and nothing else.

Rule 1: a key is a hash over the chunk's tokens and over the keys of all that it read, each with how far before it that
stood. So what was read is followed to its end: another word anywhere behind a chunk, another order, another edge
between two of its ancestors, and the key is another. A flat list of ancestors would miss the last of these.
Rule 2: what a chunk did not read, directly or through others, is not in its key.
Rule 3: what is equal for all chunks (model, number format, positions, bias) is hashed once, into `Maker`.
Rule 4: where keys can be moved exactly, places count from the chunk itself; else they are absolute. With instructions
before it a chunk cannot move, since its way to them is in its key.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from planloom.context.attention.rope import rope_parameters, rotation_of
from planloom.context.layout import SegmentKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planloom.context.layout import SegmentLayout

FORM = "planloom chunk kv 1"
"""Changes whenever what is kept, or how it is made, does."""
_FILES = ("*.safetensors", "*.bin", "*.pt", "*.gguf", "*.json", "*.py")


@dataclass(frozen=True, slots=True)
class Read:
    """What a chunk read.

    Attributes:
        key: Of what was read.
        position: Of its first token.
        hops: How far away it is in the graph.
    """

    key: str
    position: int
    hops: int = 0


@dataclass(frozen=True, slots=True)
class Maker:
    """What makes keys and values, whatever the text is.

    Attributes:
        facts: A hash of model, number formats, positions and bias.
        reach: Up to this position only the way from one chunk to another counts, and not where they stand.
        soft: Whether hops change scores.
    """

    facts: str
    reach: int
    soft: bool

    def key(self, ids: Sequence[int], position: int, reads: Sequence[Read]) -> str:
        """Return the key of a chunk.

        Args:
            ids: Its tokens.
            position: Of its first token.
            reads: What it read besides itself, in order.
        """
        said = hashlib.sha256(self.facts.encode())
        said.update(hashlib.sha256(array("q", ids).tobytes()).digest())
        if position + len(ids) > self.reach:
            said.update(b"@%d" % position)
        for read in reads:
            said.update(f"|{read.key}{read.position - position:+d}".encode())
            if self.soft:
                said.update(b"~%d" % read.hops)
        return said.hexdigest()


def maker_of(model: Any, identity: str, layout: SegmentLayout) -> Maker:
    """Return what makes the keys and values of this model for prompts like this.

    Args:
        identity: Which model it is, to the last weight: `model_identity`.
    """
    policy = layout.policy
    soft = policy.mask_strategy == "soft"
    facts = {
        "form": FORM,
        "model": identity,
        "dtype": str(model.dtype),
        "kept": policy.chunk_kv.dtype if policy.chunk_kv is not None else "model",
        "device": str(model.device),
        "rope": rope_parameters(model.config),
        "positions": policy.positions,
        "soft_bias": policy.soft_bias if soft else None,
    }
    told = json.dumps(facts, sort_keys=True, default=str)
    return Maker(hashlib.sha256(told.encode()).hexdigest(), _reach(model, layout), soft)


def _reach(model: Any, layout: SegmentLayout) -> int:
    """Return up to which position chunks can be moved; 0 also where moving would change nothing."""
    instructions = any(one.length for one in layout.segments if one.kind is SegmentKind.SINK)
    if instructions or layout.policy.positions == "parallel":
        return 0
    rotation = rotation_of(model)
    return 0 if rotation is None else rotation.reach


def model_identity(model: Any, name: str, *, folder: Path | None = None) -> str:
    """Return a hash that another model, another revision or other weights would not have.

    Args:
        name: Its address.
        folder: Where its files are: names, sizes and times of change count, so nothing may be put on top of them later.
            None: the weights themselves are read, all of them, once until they change.
    """
    told: dict[str, Any] = {"name": name, "config": model.config.to_dict(), "class": type(model).__qualname__}
    if folder is not None:
        files = sorted({file for pattern in _FILES for file in folder.glob(pattern) if file.is_file()})
        told["files"] = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    else:
        told["weights"] = _weights(model)
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


_WEIGHED: WeakKeyDictionary[Any, tuple[tuple[Any, ...], str]] = WeakKeyDictionary()


def _weights(model: Any) -> str:
    """Return a hash of every weight."""
    state = [(name, one.detach()) for name, one in (*model.named_parameters(), *model.named_buffers())]
    seen = tuple((name, one.data_ptr(), one._version, one.dtype) for name, one in state)
    known = _WEIGHED.get(model)
    if known is not None and known[0] == seen:
        return known[1]
    said = hashlib.sha256()
    for name, one in state:
        said.update(f"{name}:{one.dtype}:{tuple(one.shape)}".encode())
        said.update(one.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    _WEIGHED[model] = (seen, said.hexdigest())
    return said.hexdigest()

"""Models in memory: read once for each place, however many addresses and threads mean it, and asked by one at a time.

Rule 1: safetensors only, no code of the model's own, no network.
Rule 2: a place's own thread does its generating, one answer after the other; anybody's thread may read the weights.
Rule 3: what nobody holds any more is freed.
"""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as their_logging

from planloom.errors import ConfigError
from planloom.models.local.candidates import takes
from planloom.models.local.decode import FAILS
from planloom.models.local.pace import Pace, Rate
from planloom.models.local.place import ModelPlace, config_of, window_of
from planloom.models.local.prompt import tokenizer_of

_loading = threading.Lock()
"""One model is read at a time: each takes all cores, and their progress bars are switched off for the whole process."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model that can be asked.

    Attributes:
        ends: Tokens that end an answer.
        window: Tokens of prompt and answer together, None where its config does not say.
        plain: Tokens a second without speculation.
        paces: What each way to speculate came to so far, by its name.
        kept: What others keep with the model (masks, keys and values of chunks), by their names.
    """

    folder: Path
    model: Any
    tokenizer: Any
    ends: frozenset[int]
    window: int | None
    vocabulary: int
    plain: Rate = field(default_factory=Rate)
    paces: dict[str, Pace] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict)

    def pace(self, way: str) -> Pace:
        """Return what is known of one way to speculate."""
        return self.paces.setdefault(way, Pace(plain=self.plain))

    def decoded(self, ids: Any) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Weights:
    """The model of one place, read when it is first asked for."""

    def __init__(self, place: ModelPlace) -> None:
        self.place = place
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="planloom-model")
        self.holders: WeakSet[object] = WeakSet()
        self._drafts: dict[ModelPlace, Weights] = {}
        self._loaded: Loaded | None = None

    def draft(self, place: ModelPlace) -> Weights:
        """Return a model that drafts for this one, held as long as this one is."""
        if place not in self._drafts:
            self._drafts[place] = weights_of(place, self)
        return self._drafts[place]

    def loaded(self) -> Loaded:
        """Return the model, read now if it is not in memory. Takes as long as that takes.

        Raises:
            ConfigError: It is not here, or cannot be read.
        """
        with _loading:
            if self._loaded is None:
                self._loaded = _load(self.place)
            return self._loaded

    def let_go(self, holder: object) -> None:
        """Free the memory if nobody else holds it; an answer under way still ends."""
        with _lock:
            self.holders.discard(holder)
            if self.holders:
                return
            _all.pop(self.place, None)
        self._loaded = None
        for draft in self._drafts.values():
            draft.let_go(self)
        self._drafts.clear()
        self.thread.shutdown(wait=False)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


_lock = threading.Lock()
_all: WeakValueDictionary[ModelPlace, Weights] = WeakValueDictionary()


def weights_of(place: ModelPlace, holder: object) -> Weights:
    """Return the one `Weights` of a place, held by `holder` until `let_go`."""
    with _lock:
        found = _all.get(place)
        if found is None:
            found = _all[place] = Weights(place)
        found.holders.add(holder)
        return found


def _load(place: ModelPlace) -> Loaded:
    folder = place.fetched()
    tokenizer = tokenizer_of(folder)
    was_shown = their_logging.is_progress_bar_enabled()
    their_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        if getattr(config, "is_encoder_decoder", False):
            raise ConfigError(f"{folder} holds an encoder and decoder", remedy="use a model of causal language")
        model = AutoModelForCausalLM.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto" if place.dtype == "auto" else getattr(torch, place.dtype),
        )
        model = model.to(_device(place.device)).eval()
    except (*FAILS, ImportError, SafetensorError) as error:
        raise ConfigError(
            f"the model in {folder} cannot be read: {type(error).__name__}: {str(error)[:300]}",
            remedy="is it whole, as safetensors, of an architecture that this transformers knows, and not too large?",
        ) from error
    finally:
        if was_shown:
            their_logging.enable_progress_bar()
    if not takes(model, "past_key_values"):
        raise ConfigError(f"{type(model).__name__} keeps no keys and values", remedy="use a model with attention")
    text = config.get_text_config()
    return Loaded(folder, model, tokenizer, _ends(model, tokenizer), window_of(config_of(folder)), int(text.vocab_size))


def _device(named: str) -> str:
    if named != "auto":
        return named
    return "cuda" if torch.cuda.is_available() else "cpu"


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer, as the model's folder says."""
    said = getattr(model.generation_config, "eos_token_id", None)
    if said is None:
        said = tokenizer.eos_token_id
    if said is None:
        return frozenset()
    return frozenset(said) if isinstance(said, list | tuple) else frozenset((said,))

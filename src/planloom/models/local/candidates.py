"""Tokens that the answer may go on with, for the model to check many of in one pass.

Rule 1: a candidate is a guess: a wrong one costs time and changes no token.
Rule 2: candidates are settled before the model has its say: no dice, no scores.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

NGRAMS = (3, 2)
"""Lengths of the last tokens that are looked up, the longest first."""
LEAST, MOST = 4, 32
"""Candidates that are looked up at a time: twice as many after all were right, half after none was."""
FIRST_DRAFT, MOST_DRAFT = 5, 20
CONFIDENT = 0.4
"""Share of probability below which a draft's next token, and what follows it, is not worth a check."""


class Candidates(Protocol):
    """Where candidates come from."""

    is_prediction: bool
    """Whether the last ones were of a text that the caller said the answer is likely to be."""

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        """Return at most so many tokens that may follow these, which only ever grow; [] for none."""
        ...

    def learn(self, proposed: int, accepted: int) -> None:
        """Hear how many of the last ones were right."""
        ...


class _Corpus:
    """Tokens in which the last few are looked up."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def grow(self, ids: Sequence[int]) -> None:
        """Index these tokens, of which those so far are the beginning."""
        self.ids.extend(ids[len(self.ids) :])
        for end in range(max(1, self._indexed), len(self.ids)):
            for n in NGRAMS:
                if end >= n:
                    self._after[tuple(self.ids[end - n : end])] = end
        self._indexed = len(self.ids)

    def following(self, last: Sequence[int], most: int) -> list[int]:
        """Return what came after the last tokens where they stood before, at most so many."""
        for n in NGRAMS:
            at = self._after.get(tuple(last[-n:])) if len(last) >= n else None
            if at is not None:
                return self.ids[at : at + most]
        return []


class Lookup:
    """What followed the same few tokens before: in the prediction, then in the prompt and the answer so far."""

    def __init__(self, prediction: Sequence[int] = (), *, in_prompt: bool = True) -> None:
        self.is_prediction = False
        self._prediction = _Corpus()
        self._prediction.grow(prediction)
        self._prompt = _Corpus() if in_prompt else None
        self._size = 2 * LEAST
        self._answer_from: int | None = None

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        most = min(most, self._size)
        if self._answer_from is None:
            self._answer_from = len(ids)
        if len(ids) == self._answer_from:
            found = self._prediction.ids[:most]
        else:
            found = self._prediction.following(ids[self._answer_from :][-max(NGRAMS) :], most)
        self.is_prediction = bool(found)
        if self._prompt is not None:
            self._prompt.grow(ids)
            found = found or self._prompt.following(ids[-max(NGRAMS) :], most)
        return found

    def learn(self, proposed: int, accepted: int) -> None:
        if accepted == proposed:
            self._size = min(MOST, self._size * 2)
        elif not accepted:
            self._size = max(LEAST, self._size // 2)


class Draft:
    """What a smaller model says next.

    Args:
        ends: Tokens that end an answer.
        vocabulary: How many tokens the model knows that checks them.
        confident: See `CONFIDENT`.

    Raises:
        ValueError: The draft cannot take back what was wrong.
    """

    is_prediction = False

    def __init__(self, model: Any, ends: frozenset[int], vocabulary: int, *, confident: float = CONFIDENT) -> None:
        self._confident = confident
        self._model = model
        self._ends = ends
        self._vocabulary = vocabulary
        self._cache: Any = DynamicCache(config=model.config)
        if not may_be_cut(self._cache):
            raise ValueError("its cache cannot be cut back")
        self._more = {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}
        self._seen: list[int] = []
        self._sure = 0
        self._size = FIRST_DRAFT

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        most = min(most, self._size)
        if most < 1:
            return []
        self._forget(ids)
        fresh, found = list(ids[len(self._seen) :]), list[int]()
        self._sure = len(ids)
        while True:
            inputs = torch.tensor([fresh], device=self._model.device)
            read = self._model(input_ids=inputs, past_key_values=self._cache, use_cache=True, **self._more)
            self._seen += fresh
            sure, token = torch.softmax(read.logits[0, -1].float(), dim=-1).max(dim=-1)
            following = int(token)
            if float(sure) < self._confident or following >= self._vocabulary:
                return found
            found.append(following)
            if following in self._ends or len(found) >= most:
                return found
            fresh = [following]

    def learn(self, proposed: int, accepted: int) -> None:
        if proposed and accepted == proposed:
            self._size = min(MOST_DRAFT, self._size + 2)
        elif proposed:
            self._size = max(1, self._size - 1)

    def _forget(self, ids: Sequence[int]) -> None:
        """Take back what was drafted and is not in the answer; the last token is always read anew."""
        same = min(self._sure, len(self._seen))
        while same < min(len(self._seen), len(ids)) and self._seen[same] == ids[same]:
            same += 1
        same = min(same, len(ids) - 1)
        if same < len(self._seen):
            self._cache.crop(same - len(self._seen))
            del self._seen[same:]


def takes(model: Any, name: str) -> bool:
    """Return whether a model's forward has this parameter."""
    return name in inspect.signature(model.forward).parameters


def may_be_cut(cache: Any) -> bool:
    """Return whether tokens can be taken back from a cache, and make it ready for that."""
    layers = getattr(cache, "layers", None)
    if layers is None:
        return False
    if all(type(layer) is DynamicLayer for layer in layers):
        return True
    # Sliding windows must keep more than they show; older versions of transformers cannot.
    ready = getattr(cache, "activate_past_recording", None)
    if ready is None or not all(isinstance(layer, DynamicLayer) for layer in layers):
        return False
    ready()
    return True

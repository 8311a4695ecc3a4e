"""One answer, token by token: a pass of the model over what it has not read, then what it says next.

Rule 1: plain and sped-up decoding are this one loop: without candidates a pass brings one token, with them one more
than were right. The tokens are the model's own either way; a sampled one is drawn once for each token of the answer, so
a seed gives the same answer with and without candidates.
Rule 2: `passes` counts each call of the model; reading the prompt is one, however it is done.
Rule 3: it may be stopped between any two passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import DynamicCache

from planloom.models.local.candidates import Candidates, may_be_cut, takes

Pick = Callable[[Any], Iterator[int]]
"""Yields the token for each row of logits, drawn when it is asked for."""
Finish = Literal["stop", "length", "stopped"]

FAILS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError)
"""What torch and transformers raise when a model cannot do what it is asked."""


@dataclass(slots=True)
class Begun:
    """A prompt that was read already, its end aside.

    Attributes:
        cache: Keys and values of its first `length` tokens.
    """

    cache: Any
    length: int


@dataclass(slots=True)
class Counts:
    """What an answer took.

    Attributes:
        passes: Calls of the model, each one step of its time.
        proposals: Passes that checked candidates; `proposed` and `accepted` are their tokens.
        predicted, predicted_accepted: Those of them that were the caller's prediction.
        draft_s: Seconds that finding candidates took.
        first_s: Seconds until the first token.
        decode_s: Seconds after the first pass, in which `decoded` tokens came.
        plain_s: Of those, the seconds of passes without candidates, one token each: `plain`.
        failure: Why candidates were given up on the way; "" if they were not.
    """

    passes: int = 0
    proposals: int = 0
    proposed: int = 0
    accepted: int = 0
    predicted: int = 0
    predicted_accepted: int = 0
    draft_s: float = 0.0
    first_s: float = 0.0
    decode_s: float = 0.0
    decoded: int = 0
    plain_s: float = 0.0
    plain: int = 0
    failure: str = ""


@dataclass(slots=True)
class Decoding:
    """One answer under way.

    Attributes:
        prompt: Its tokens.
        most: Most tokens of the answer.
        ends: Tokens that end it; such a one is counted, and is no text.
        pick: Says which token the logits mean.
        candidates: Where guesses come from; None: none.
        begun: What of the prompt was read already.
        positions: Of the prompt's tokens, where they are not 0, 1, 2, …
        is_stopped: Asked before each pass.
        tokens: The answer so far.
    """

    model: Any
    prompt: Sequence[int]
    most: int
    ends: frozenset[int]
    pick: Pick
    candidates: Candidates | None = None
    begun: Begun | None = None
    positions: Sequence[int] | None = None
    is_stopped: Callable[[], bool] = lambda: False
    tokens: list[int] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def run(self, hear: Callable[[int], bool]) -> Finish:
        """Decode until the answer ends, and say why it did.

        Args:
            hear: Gets each token, an ending one aside; True ends the answer.
        """
        with torch.inference_mode():
            return self._run(hear)

    def _run(self, hear: Callable[[int], bool]) -> Finish:
        counts, ids = self.counts, list(self.prompt)
        cache: Any = self.begun.cache if self.begun is not None else DynamicCache(config=self.model.config)
        if self.candidates is not None and not may_be_cut(cache):
            self._give_up("the model's cache cannot be cut back")
        unread = ids[0 if self.begun is None else self.begun.length :]
        began_at = time.perf_counter()
        while not self.is_stopped():
            at = time.perf_counter()
            proposed = self._proposed(ids)
            logits = self._pass(cache, unread, proposed, len(ids))
            said = self._said(logits, proposed, hear)
            ids += said.tokens
            surplus = len(proposed) - (len(said.tokens) - 1)
            if surplus > 0 and said.finish is None:
                cache.crop(-surplus)
            unread = said.tokens[-1:]
            self._count(said, proposed, time.perf_counter() - at, is_first=len(self.tokens) == len(said.tokens))
            if counts.first_s == 0:
                counts.first_s = time.perf_counter() - began_at
            if said.finish is not None:
                return said.finish
        return "stopped"

    def _proposed(self, ids: Sequence[int]) -> list[int]:
        room = self.most - len(self.tokens) - 1  # a pass brings one token of its own
        if self.candidates is None or room < 1:
            return []
        at = time.perf_counter()
        try:
            return self.candidates.propose(ids, room)
        except FAILS as error:
            self._give_up(f"the draft failed: {type(error).__name__}: {str(error)[:200]}")
            return []
        finally:
            self.counts.draft_s += time.perf_counter() - at

    def _give_up(self, why: str) -> None:
        self.candidates, self.counts.failure = None, why

    def _pass(self, cache: Any, unread: Sequence[int], proposed: Sequence[int], length: int) -> Any:
        """Have the model read on; return the logits after the last token and after each candidate."""
        read = [*unread, *proposed]
        keep = len(proposed) + 1
        device = self.model.device
        more: dict[str, Any] = {}
        if takes(self.model, "logits_to_keep"):
            more["logits_to_keep"] = keep
        if self.positions is not None:
            begins = length - len(unread)
            more["position_ids"] = torch.tensor([self._places(begins, begins + len(read))], device=device)
        inputs = torch.tensor([read], device=device)
        self.counts.passes += 1
        return self.model(input_ids=inputs, past_key_values=cache, use_cache=True, **more).logits[0, -keep:]

    def _places(self, begin: int, end: int) -> list[int]:
        given = self.positions or ()
        last = given[-1] if given else -1
        return [given[at] if at < len(given) else last + 1 + at - len(given) for at in range(begin, end)]

    def _said(self, logits: Any, proposed: Sequence[int], hear: Callable[[int], bool]) -> _Said:
        """Return the tokens that a pass brings: the candidates that are right, and one of the model's own."""
        said = _Said()
        for place, token in enumerate(self.pick(logits)):
            said.tokens.append(token)
            self.tokens.append(token)
            is_right = place < len(proposed) and token == proposed[place]
            said.accepted += is_right
            if token in self.ends or hear(token):
                said.finish = "stop"
            elif len(self.tokens) >= self.most:
                said.finish = "length"
            if said.finish is not None or not is_right:
                break
        return said

    def _count(self, said: _Said, proposed: Sequence[int], seconds: float, *, is_first: bool) -> None:
        counts = self.counts
        if not is_first:
            counts.decode_s += seconds
            counts.decoded += len(said.tokens)
        if proposed:
            counts.proposals += 1
            counts.proposed += len(proposed)
            counts.accepted += said.accepted
            assert self.candidates is not None
            if self.candidates.is_prediction:
                counts.predicted += len(proposed)
                counts.predicted_accepted += said.accepted
            self.candidates.learn(len(proposed), said.accepted)
        elif not is_first:
            counts.plain_s += seconds
            counts.plain += 1


@dataclass(slots=True)
class _Said:
    """What one pass brought."""

    tokens: list[int] = field(default_factory=list)
    accepted: int = 0
    finish: Finish | None = None


def greedy(logits: Any) -> Iterator[int]:
    """Yield the most likely token of each row."""
    yield from logits.argmax(dim=-1).tolist()


def sampled(
    temperature: float, *, top_k: int | None = None, top_p: float | None = None, seed: int | None = None
) -> Pick:
    """Return a `Pick` that draws each token by its probability.

    Args:
        top_k: Draw among the so many most likely ones.
        top_p: Draw among the most likely ones that make up this share.
        seed: The same seed draws the same tokens; None: another answer each time.
    """
    dice = torch.Generator()
    if seed is None:
        dice.seed()
    else:
        dice.manual_seed(seed)

    def pick(logits: Any) -> Iterator[int]:
        for row in logits:
            scores = row.float().cpu() / temperature
            if top_k is not None and top_k < len(scores):
                scores[scores < scores.topk(top_k).values[-1]] = -torch.inf
            shares = torch.softmax(scores, dim=-1)
            if top_p is not None and top_p < 1:
                ordered, places = shares.sort(descending=True)
                ordered[ordered.cumsum(dim=-1) - ordered >= top_p] = 0
                shares = torch.zeros_like(shares).scatter(-1, places, ordered)
            yield int(torch.multinomial(shares, 1, generator=dice))

    return pick

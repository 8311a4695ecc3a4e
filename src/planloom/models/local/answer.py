"""One call answered, in the thread of its model: prompt, mask, candidates, text, and what it all took.

Rule 1: what is told was measured in this call: passes counted, tokens counted, seconds taken.
Rule 2: an answer is whole or it is an error that carries what it used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.core.chat import LLMResponse, ModelCall
from planloom.core.result import Usage
from planloom.errors import (
    ConfigError,
    ModelError,
    ModelRefusedError,
    ModelTruncatedError,
    UnknownFieldError,
    suggestion,
)
from planloom.models.local.candidates import Candidates, Draft, Lookup
from planloom.models.local.decode import FAILS, Counts, Decoding, Finish, Pick, greedy, sampled
from planloom.models.local.masking import Masking, masking_of
from planloom.models.local.place import SPECULATE, draft_of, place_of
from planloom.models.local.prompt import PromptTokens, prompt_of, tokenizer_of, unlike_tokens
from planloom.models.local.terms import LocalTerms
from planloom.models.local.text import Text
from planloom.models.uri import parse_uri

if TYPE_CHECKING:
    from planloom.models.local.pace import Pace
    from planloom.models.local.weights import Loaded, Weights

PROVIDER = "transformers"
OPTIONS = ("draft", "seed", "speculate", "top_k", "top_p")
"""What `ModelCall.options` may hold. `draft` is an address."""
LONGEST = 4096
"""Tokens of an answer where neither the call nor the model's config bounds it."""


@dataclass(slots=True)
class _Way:
    """How an answer is sped up.

    Attributes:
        name: "off", "ngram", "draft" or "prediction".
        reason: Why it is "off" where something else was asked for.
    """

    name: str
    candidates: Candidates | None = None
    pace: Pace | None = None
    reason: str | None = None


def answer(weights: Weights, call: ModelCall, terms: LocalTerms) -> LLMResponse:
    """Return the answer to a call; runs in the thread of `weights`.

    Raises:
        ConfigError: The model cannot be read, or its draft has another tokenizer.
        ModelError: No answer, or half of one.
    """
    pick = _pick(call)
    loaded = weights.loaded()
    prompt = prompt_of(call, loaded.tokenizer, where=str(terms.uri))
    most = _most(call, prompt, loaded, terms)
    begun_at = time.perf_counter()
    try:
        with masking_of(call.material, prompt, loaded) as masking:
            way = _way(call, loaded, weights, terms)
            decoding = Decoding(
                loaded.model,
                prompt.ids,
                most,
                loaded.ends,
                pick,
                candidates=way.candidates,
                begun=masking.begun,
                positions=masking.positions,
                is_stopped=terms.is_over,
            )
            masked_s = time.perf_counter() - begun_at
            text = Text(loaded.decoded, call.stop, terms.hear)
            finish = decoding.run(text.add)
    except FAILS as error:
        raise ModelError(f"{terms.uri} failed: {type(error).__name__}: {str(error)[:300]}") from error
    counts = decoding.counts
    counts.first_s += masked_s
    _learn(way, loaded, counts)
    usage = Usage(len(prompt.ids), len(decoding.tokens), requests=1)
    failure = _failure(finish, most, call, terms, usage)
    if failure is not None:
        raise failure
    return LLMResponse(text.end(), PROVIDER, terms.uri.name, usage, _metadata(finish, way, counts, masking, loaded))


# --- before ---


def _pick(call: ModelCall) -> Pick:
    """Return how the next token is chosen: the likeliest, unless a temperature above 0 is asked for."""
    for name in call.options:
        if name not in OPTIONS:
            raise UnknownFieldError(
                f"models that run here have no option {name!r}; there are {', '.join(OPTIONS)}",
                remedy=suggestion(name, OPTIONS),
            )
    if not call.temperature:
        return greedy
    top_k, top_p, seed = (call.options.get(name) for name in ("top_k", "top_p", "seed"))
    return sampled(
        call.temperature,
        top_k=None if top_k is None else max(1, int(top_k)),
        top_p=None if top_p is None else float(top_p),
        seed=None if seed is None else int(seed),
    )


def _most(call: ModelCall, prompt: PromptTokens, loaded: Loaded, terms: LocalTerms) -> int:
    asked, said = call.max_tokens, len(prompt.ids)
    if loaded.window is None:
        return LONGEST if asked is None else asked
    room = loaded.window - said
    if room < 1:
        raise ModelRefusedError(
            f"the prompt is {said} tokens, and {terms.uri} takes {loaded.window} with the answer",
            remedy="give less to read (gasa: token_budget), or ask a model with a larger window",
        )
    return room if asked is None else min(asked, room)


def _way(call: ModelCall, loaded: Loaded, weights: Weights, terms: LocalTerms) -> _Way:
    said = call.options.get("speculate", terms.speculate)
    if said not in SPECULATE:
        raise ConfigError(f"the option speculate is {said!r}", remedy=f"use one of: {', '.join(SPECULATE)}")
    predicted = loaded.tokenizer(call.prediction, add_special_tokens=False).input_ids if call.prediction else []
    if predicted:
        way = _Way("prediction", Lookup(predicted, in_prompt=said == "ngram"))
    elif said == "off":
        return _Way("off")
    elif said == "ngram":
        way = _Way("ngram", Lookup())
    else:
        way = _drafted(call, loaded, weights, terms)
    if way.candidates is None:
        return way
    way.pace = loaded.pace(way.name)
    if way.pace.go():
        return way
    return _Way("off", None, way.pace, _held_back(way.pace))


def _held_back(pace: Pace) -> str:
    if pace.speed_up is None:
        return "this call measures how fast the model is by itself"
    if pace.speed_up >= 1:
        return "one call in twenty measures how fast the model is by itself"
    return f"speculation was no faster here: {pace.speed_up:.2f} times as fast as without"


def _drafted(call: ModelCall, loaded: Loaded, weights: Weights, terms: LocalTerms) -> _Way:
    """Return the way by the draft that the call or the address names; its failure only means that there is none."""
    named = call.options.get("draft")
    place = draft_of(terms.uri, terms.place) if named is None else place_of(parse_uri(str(named)))
    if place is None:
        raise ConfigError(f"neither the call nor {terms.uri} names a draft", remedy="give draft= in the address")
    try:
        unlike = unlike_tokens(loaded.tokenizer, tokenizer_of(place.fetched()))
    except ConfigError as error:
        return _Way("off", reason=f"the draft failed: {error.message}")
    if unlike is not None:
        raise ConfigError(
            f"{place.name} cannot draft for {terms.uri}: {unlike}", remedy="use a smaller model of the same family"
        )
    try:
        draft = weights.draft(place).loaded()
        return _Way("draft", Draft(draft.model, loaded.ends, loaded.vocabulary))
    except ConfigError as error:
        return _Way("off", reason=f"the draft failed: {error.message}")
    except FAILS as error:
        return _Way("off", reason=f"the draft failed: {error}")


# --- after ---


def _learn(way: _Way, loaded: Loaded, counts: Counts) -> None:
    if way.candidates is None:
        loaded.plain.add(counts.decoded, counts.decode_s)
    else:
        loaded.plain.add(counts.plain, counts.plain_s)
        if way.pace is not None:
            way.pace.sped.add(counts.decoded, counts.decode_s)


def _failure(finish: Finish, most: int, call: ModelCall, terms: LocalTerms, usage: Usage) -> ModelError | None:
    if finish == "stop":
        return None
    failure: ModelError
    if finish == "length" and (call.max_tokens is None or most < call.max_tokens):
        what = f"the answer of {terms.uri} was cut off: its window is full"
        failure = ModelTruncatedError(what, remedy="give less to read, or ask for less")
    elif finish == "length":
        what = f"the answer of {terms.uri} was cut off"
        failure = ModelTruncatedError(what, remedy="raise max_tokens, or ask for less")
    elif terms.left_s == 0.0:
        failure = terms.late(usage)
    else:
        failure = ModelError(f"{terms.uri} was stopped before its answer was whole")
    failure.usage = usage
    return failure


def _metadata(finish: Finish, way: _Way, counts: Counts, masking: Masking, loaded: Loaded) -> dict[str, Any]:
    told: dict[str, Any] = {"finish_reason": finish, "decoding": _decoding(way, counts, loaded)}
    if way.name == "prediction":
        told["accepted_prediction_tokens"] = counts.predicted_accepted
        told["rejected_prediction_tokens"] = counts.predicted - counts.predicted_accepted
    stats = masking.told(counts.first_s)
    if stats is not None:
        told["gasa_stats"] = stats
    return told


def _decoding(way: _Way, counts: Counts, loaded: Loaded) -> dict[str, Any]:
    """Return how the tokens came about."""
    return {
        "speculate": way.name,
        "verify_steps": counts.passes,
        "proposals": counts.proposals,
        "proposed_tokens": counts.proposed,
        "accepted_tokens": counts.accepted,
        "draft_s": counts.draft_s,
        "first_token_s": counts.first_s,
        "tokens_per_s": counts.decoded / counts.decode_s if counts.decode_s else None,
        "plain_tokens_per_s": loaded.plain.per_s,
        "fallback_reason": counts.failure or way.reason,
    }

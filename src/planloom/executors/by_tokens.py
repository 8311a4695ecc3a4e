"""Speculation inside one model of this process: who says which tokens come next, and what that saved.

Rule 1: the answer is the step's own model's, token for token: wrong candidates cost time and nothing else.
Rule 2: whether it pays is measured where it is done (`models/local/pace.py`), so nothing here holds it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planloom.errors import ConfigError
from planloom.executors.efficiency import Speculated
from planloom.models.llm import Speculating
from planloom.plan.policy import BY_TOKENS

if TYPE_CHECKING:
    from planloom.core.result import Usage
    from planloom.models.llm import LLM

DECODING = "decoding"
"""Where an answer's metadata tell how its tokens came about."""


def policy_of(wanted: str, asked: LLM) -> str | None:
    """Return the policy to go by with this model: "token" or "ngram"; None: another kind has to do.

    Raises:
        ConfigError: One of them is asked for, and the model does not run in this process.
    """
    if wanted not in ("auto", *BY_TOKENS):
        return None
    if isinstance(asked.model, Speculating):
        return "ngram" if wanted == "ngram" else "token"
    if wanted == "auto":
        return None
    raise ConfigError(
        f"policy {wanted!r} is about tokens inside a model of this process, and {asked.uri} is none",
        remedy="give the step a transformers:// model, or use another policy",
    )


async def options_of(policy: str, asked: LLM, draft: LLM | None) -> tuple[dict[str, Any], str | None]:
    """Return the options of a call by this policy, and why the draft model has no part in it, if that is so."""
    assert isinstance(asked.model, Speculating)
    if policy == "ngram" or draft is None:
        return {"speculate": "ngram"}, None
    unfit = await asked.model.unfit_draft(draft.model)
    if unfit is not None:
        return {"speculate": "ngram"}, unfit
    assert isinstance(draft.model, Speculating)
    return {"speculate": "draft", "draft": str(draft.model.uri)}, None


def speculated(
    policy: str,
    decoding: dict[str, Any],
    usage: Usage,
    *,
    took_s: float,
    wall_s: float,
    cost_usd: float | None,
    reason: str | None,
) -> Speculated:
    """Return what is told of an answer.

    Args:
        usage: Of the one call.
        took_s: Seconds of it.
        reason: Why the draft model had no part in it.
    """
    proposed, accepted = decoding.get("proposed_tokens", 0), decoding.get("accepted_tokens", 0)
    draft_s = decoding.get("draft_s", 0.0)
    return Speculated(
        policy=policy,
        accepted=accepted > 0,
        draft_tokens=proposed,
        accepted_tokens=accepted,
        drafts=decoding.get("proposals", 0),
        verify_steps=decoding.get("verify_steps", usage.output_tokens),
        output_tokens=usage.output_tokens,
        draft_s=draft_s,
        verify_s=max(0.0, took_s - draft_s),
        wall_s=wall_s,
        baseline_est_s=_baseline_s(decoding, usage, took_s),
        verify_cost=cost_usd,
        wasted_tokens=proposed - accepted,
        fallback_reason=reason or decoding.get("fallback_reason"),
    )


def _baseline_s(decoding: dict[str, Any], usage: Usage, took_s: float) -> float | None:
    """Return about what the answer takes at the speed that the model was seen to have without candidates."""
    per_s, first_s = decoding.get("plain_tokens_per_s"), decoding.get("first_token_s")
    if decoding.get("speculate") == "off":
        return took_s
    return None if not per_s or first_s is None else first_s + max(0, usage.output_tokens - 1) / per_s

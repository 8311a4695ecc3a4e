"""What a model step may use at most: the ceilings that its run sets aside before it starts.

Rule 1: a need is a true ceiling: what the executor may ask with it is worked out in `asking.py`, for both.
Rule 2: what a step must be able to do (ask once, have it judged) is its need; what it may do after that (ask again,
refine, call tools) is spare, and granted as far as the limits go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planloom.core.asking import JUDGE_TOKENS, MAX_CALLS, MAX_ROUNDS, PER_MESSAGE, RE_ASK_TOKENS, step_ceiling
from planloom.core.budget import Claim

if TYPE_CHECKING:
    from planloom.core.events import ToolFacts
    from planloom.core.prices import ModelFacts
    from planloom.plan.model import Step

JUDGE_PROMPT_TOKENS = 8_000
"""Most tokens of what a judge is told besides the prompt and the answer."""
SPEC_BYTES = 4_000
"""Size of what a model is told of a tool, where the tool does not say."""
JUDGED = frozenset({"judge", "model", "full"})


@dataclass(slots=True)
class _Sum:
    usd: float = 0.0
    tokens: int = 0

    def add(self, facts: ModelFacts, prompt: int, answer: int, *, times: int = 1) -> None:
        """Add so many calls of at most so many tokens."""
        if facts.price is not None:
            self.usd += times * facts.price.ceiling_usd(prompt, answer)
        self.tokens += times * (prompt + answer)


def model_claim(
    step: Step, args: Mapping[str, Any], models: Mapping[str, ModelFacts], tools: Mapping[str, ToolFacts]
) -> Claim:
    """Return what one attempt of a model step needs and could use.

    Args:
        args: Its arguments, resolved.
        models: The run's models by the names the plan uses; those of this step are among them.
    """
    own = models[step.model or ""]
    told = sum(PER_MESSAGE + (_bytes_of(tools.get(name)) or SPEC_BYTES) for name in step.tools or ())
    prompt = rounded_up(step_ceiling(step, args, tool_bytes=told))
    answer = step.max_tokens or own.max_tokens
    need, spare = _Sum(), _Sum()
    need.add(own, prompt, answer)
    if step.output is not None:
        spare.add(own, prompt + answer + RE_ASK_TOKENS, answer)
    if step.tools:
        spare.add(own, prompt + MAX_ROUNDS * answer, answer, times=MAX_ROUNDS)
        spare.usd += MAX_CALLS * max(_cost_of(tools.get(name)) for name in step.tools)
    _add_draft(step, models, need, prompt, answer)
    _add_verification(step, models, need, spare, prompt, answer)
    calls = MAX_CALLS if step.tools else 0
    return Claim(
        cost_usd=need.usd,
        tokens=need.tokens,
        metered=True,
        spare_calls=calls,
        spare_usd=spare.usd,
        spare_tokens=spare.tokens,
    )


def _add_draft(step: Step, models: Mapping[str, ModelFacts], need: _Sum, prompt: int, answer: int) -> None:
    policy = step.speculate
    if policy is None or policy.policy == "compare":
        return  # the draft of `compare` is an attempt of its own
    need.add(models[policy.draft], prompt, answer)
    judge = models[policy.judge or step.model or ""]
    need.add(judge, prompt + answer + JUDGE_PROMPT_TOKENS, JUDGE_TOKENS)


def _add_verification(
    step: Step, models: Mapping[str, ModelFacts], need: _Sum, spare: _Sum, prompt: int, answer: int
) -> None:
    policy = step.verify
    if policy is None:
        return
    own = models[step.model or ""]
    judge = models[policy.model or step.model or ""]
    again = policy.max_attempts - 1 if policy.refinement != "none" else 0
    if policy.strategy == "self_consistency":
        need.add(own, prompt, answer, times=policy.samples - 1)
    longest = prompt + (policy.max_attempts if policy.refinement == "iterative" else 1) * (answer + JUDGE_TOKENS)
    spare.add(own, longest + RE_ASK_TOKENS, answer, times=again)
    if policy.strategy in JUDGED:
        need.add(judge, prompt + answer + JUDGE_PROMPT_TOKENS, JUDGE_TOKENS)
        # Of each verdict: asked again once, if it cannot be read.
        spare.add(judge, longest + answer + JUDGE_PROMPT_TOKENS, JUDGE_TOKENS, times=1 + 2 * again)


def _bytes_of(facts: ToolFacts | None) -> int | None:
    return facts.spec_bytes if facts is not None else None


def _cost_of(facts: ToolFacts | None) -> float:
    return facts.cost_per_call_usd or 0.0 if facts is not None else 0.0


def rounded_up(tokens: int) -> int:
    """Return a number a little larger, of few digits in base two, so that like steps have one claim."""
    step = 1 << max(0, tokens.bit_length() - 4)
    return -(-tokens // step) * step

"""What a step may use of models at most: the ceilings that its run sets aside before it starts.

Rule 1: a need is a true ceiling: what the executor may ask with it is worked out in `asking.py`, for both.
Rule 2: what a step must be able to do (ask once, have it judged) is its need; what it may do after that (ask again,
refine, call tools) is spare, and granted as far as the limits go.
Rule 3: what nobody can bound (how much text an answer's tokens are, what a tool returns) is set aside as it mostly is.
Where there is more of it, the executor's meter refuses the call: a limit is never passed, the step fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from planloom.core.asking import (
    AGENT_BYTES,
    ANSWER_BYTES,
    HISTORY_BYTES,
    JUDGE_TOKENS,
    MAX_CALLS,
    MAX_ROUNDS,
    PER_MESSAGE,
    RE_ASK_TOKENS,
    ROUND_CALLS,
    ROUND_TASKS,
    VERDICT_PROMPT_BYTES,
    VERDICT_TOKENS,
    documents_ceiling,
    parts_ceiling,
    size_bytes,
    step_ceiling,
    task_of,
)
from planloom.core.budget import Claim, tool_claim
from planloom.plan.policy import BY_TOKENS, JUDGED

if TYPE_CHECKING:
    from planloom.core.events import AgentFacts, ToolFacts
    from planloom.core.prices import ModelFacts
    from planloom.plan.model import Step
    from planloom.plan.policy import VerifyPolicy

    Models = Mapping[str, ModelFacts]

JUDGE_PROMPT_TOKENS = 8_000
"""Most tokens of what a judge is told besides the prompt and the answer."""
SPEC_BYTES = 4_000
"""Size of what a model is told of a tool, where the tool does not say."""
RESULT_BYTES = 16_000
"""Size of a tool's result, as what is set aside for telling it to a model has it."""
LARGE_RESULT_BYTES = 256_000
"""Size of a tool's result that can be judged where there is enough left for it."""
AGAIN_BYTES = 1_000
"""Size of what stands around an answer and its verdict where a model is told both of them."""
DEFAULT = "default"
"""Name of the model that judges where nothing names one."""
DEFAULT_ITERATIONS = 10
"""Times it may go round."""
TOLD_TOOLS = 8
"""Tools an agent's model is mostly told of."""
AGENT_SHARE = 0.5
"""Of what is left of a limit, how much one step may be granted beyond its needs whose use nobody can foresee: others
that are ready at the same time shall have something too."""
CODE_CALLS = 1_000
"""Tools one program may call."""


@dataclass(slots=True)
class _Sum:
    usd: float = 0.0
    tokens: int = 0

    def ask(self, facts: ModelFacts | None, prompt: int, answer: int, *, times: int = 1) -> None:
        """Add so many calls of at most so many tokens; of a model that nothing is known of, none."""
        if facts is None:
            return
        if facts.price is not None:
            self.usd += times * facts.price.ceiling_usd(prompt, answer)
        self.tokens += times * (prompt + answer)

    def add(self, other: _Sum, *, times: int = 1) -> None:
        self.usd += times * other.usd
        self.tokens += times * other.tokens


@dataclass(slots=True)
class _Both:
    """What something needs, and what it could use beyond that."""

    need: _Sum = field(default_factory=_Sum)
    spare: _Sum = field(default_factory=_Sum)

    def add(self, other: _Both, *, times: int = 1) -> None:
        self.need.add(other.need, times=times)
        self.spare.add(other.spare, times=times)

    def spare_all(self, other: _Both) -> None:
        """Add all of the other as spare."""
        self.spare.add(other.need)
        self.spare.add(other.spare)


def model_claim(step: Step, args: Mapping[str, Any], models: Models, tools: Mapping[str, ToolFacts]) -> Claim:
    """Return what one attempt of a model step needs and could use.

    Args:
        args: Its arguments, resolved.
        models: The run's models by the names the plan uses; the step's own is among them.
    """
    told = sum(PER_MESSAGE + (_bytes_of(tools.get(name)) or SPEC_BYTES) for name in step.tools or ())
    prompt = rounded_up(step_ceiling(step, args, tool_bytes=told))
    quoted = _quoted(step.max_tokens or models[step.model or ""].max_tokens)
    policy, times = step.verify, 1
    whole = _Both()
    once = _once(step, models, prompt)
    once.add(_apart(step, models, args, prompt))
    whole.add(once, times=_samples(policy))
    for more in _told_again(policy, quoted):
        again = _once(step, models, prompt + more)
        again.add(_apart(step, models, args, prompt + more))
        whole.spare_all(again)
        times += 1
    whole.add(_judging(policy, models, step.model or "", prompt + quoted, times=times))
    calls = MAX_CALLS * times * _samples(policy) if step.tools else 0
    whole.spare.usd += calls * max((_cost_of(tools.get(name)) for name in step.tools or ()), default=0.0)
    return Claim(
        cost_usd=whole.need.usd,
        tokens=whole.need.tokens,
        metered=True,
        spare_calls=calls,
        spare_usd=whole.spare.usd,
        spare_tokens=whole.spare.tokens,
    )


def agent_facts(step: Step, agents: Mapping[str, AgentFacts]) -> AgentFacts | None:
    """Return what the run was told of the agent that does this step, None if none does or nothing is known of it."""
    name = step.agent_name
    return None if name is None else agents.get(name)


def agent_claim(
    step: Step, args: Mapping[str, Any], facts: AgentFacts, models: Models, tools: Mapping[str, ToolFacts]
) -> Claim:
    """Return what one attempt of an agent's step needs, its first call, and could use.

    Args:
        facts: Of the agent; its model is among the run's.
    """
    own, policy = models[facts.model or ""], step.verify
    rounds = step.agent.max_iterations if step.agent is not None else DEFAULT_ITERATIONS
    answer = step.max_tokens or own.max_tokens
    prompt = rounded_up(AGENT_BYTES + SPEC_BYTES * TOLD_TOOLS + PER_MESSAGE + size_bytes(task_of(step, args)))
    whole = _Both()
    whole.need.ask(own, prompt, answer)
    whole.spare.ask(own, prompt + HISTORY_BYTES, answer, times=rounds * ROUND_CALLS)
    whole.add(_judging(policy, models, DEFAULT, prompt + _quoted(answer), times=1))
    dearest = max((_cost_of(one) for one in tools.values()), default=0.0)
    dearest = max(dearest, facts.cost_per_call_usd or 0.0)
    calls = rounds * ROUND_TASKS
    return Claim(
        cost_usd=whole.need.usd,
        tokens=whole.need.tokens,
        metered=True,
        spare_calls=calls,
        spare_usd=whole.spare.usd + calls * dearest,
        spare_tokens=whole.spare.tokens,
        share=AGENT_SHARE,
    )


def code_claim(step: Step, plainly: Claim, tools: Mapping[str, ToolFacts]) -> Claim:
    """Return what running code may use: what `plainly` says, and calls of its tools."""
    named = step.code.tools if step.code is not None else ()
    calls = CODE_CALLS if named else 0
    dearest = max((_cost_of(tools.get(name)) for name in named), default=0.0)
    return replace(
        plainly,
        metered=True,
        spare_calls=plainly.spare_calls + calls,
        spare_usd=plainly.spare_usd + calls * dearest,
        share=AGENT_SHARE if named else plainly.share,
    )


def verified_claim(step: Step, args: Mapping[str, Any], models: Models, facts: ToolFacts | None) -> Claim:
    """Return what one attempt of a step with `verify` needs and could use that asks no model itself: tool or code.

    Args:
        facts: Of its tool.
    """
    call = tool_claim(facts) if step.tool is not None else Claim()
    policy = step.verify
    samples, times = _samples(policy), 1 + sum(1 for _ in _told_again(policy, 0))
    prompt = rounded_up(PER_MESSAGE + size_bytes(task_of(step, args))) + RESULT_BYTES
    judging = _judging(policy, models, DEFAULT, prompt, times=times)
    judging.spare.add(_judging(policy, models, DEFAULT, prompt + LARGE_RESULT_BYTES, times=1).need, times=times)
    return replace(
        call,
        # All samples are made at once, before anybody can say what one of them cost.
        cost_usd=samples * call.cost_usd + judging.need.usd,
        unknown_usd=samples * call.cost_usd,
        tokens=judging.need.tokens,
        metered=True,
        spare_calls=call.calls * (samples * times - 1),
        spare_usd=(times - 1) * call.cost_usd + judging.spare.usd,
        spare_tokens=judging.spare.tokens,
    )


def _once(step: Step, models: Models, prompt: int) -> _Both:
    """Return what doing a model step once takes: drafting for it, asking, asking again, calling tools."""
    own = models[step.model or ""]
    answer = step.max_tokens or own.max_tokens
    found = _Both()
    prompt_with_draft = prompt + _drafting(step, models, prompt, found.need)
    found.need.ask(own, prompt_with_draft, answer)
    mended = _quoted(answer) + RE_ASK_TOKENS if step.output is not None else 0
    a_round = _quoted(answer) + MAX_CALLS // MAX_ROUNDS * RESULT_BYTES if step.tools else 0
    for rounds in range(1, MAX_ROUNDS + 1 if step.tools else 1):
        found.spare.ask(own, prompt + rounds * a_round + mended, answer)
    if mended:
        found.spare.ask(own, prompt_with_draft + MAX_ROUNDS * a_round + mended, answer)
    return found


def _apart(step: Step, models: Models, args: Mapping[str, Any], prompt: int) -> _Both:
    """Return what reading documents in parts takes beyond one call with all of them: no part can be left out."""
    found, parts = _Both(), parts_ceiling(step.gasa, args)
    if parts:
        own = models[step.model or ""]
        answer = step.max_tokens or own.max_tokens
        question = prompt - documents_ceiling(step.gasa, args)
        found.need.ask(own, question, answer, times=parts)
        found.need.ask(own, question + parts * _quoted(answer), answer)
    return found


def _drafting(step: Step, models: Models, prompt: int, need: _Sum) -> int:
    """Add what a draft and its judge take; return the size of what the step's own model is told of the draft."""
    policy = step.speculate
    draft = models.get(policy.draft or "") if policy is not None else None
    # The draft of `compare` is an attempt of its own, one by tokens no call, and steps with tools are never drafted.
    if policy is None or policy.policy in ("compare", *BY_TOKENS) or step.tools or draft is None:
        return 0
    drafted = step.max_tokens or draft.max_tokens
    need.ask(draft, prompt, drafted)
    if policy.policy in ("hedged", "cascade") or (policy.policy == "auto" and policy.allow_lossy):
        judge = models.get(policy.judge or step.model or "")
        need.ask(judge, prompt + _quoted(drafted) + VERDICT_PROMPT_BYTES, VERDICT_TOKENS)
    return _quoted(drafted) if policy.policy in ("predicted", "auto") else 0


def _judging(policy: VerifyPolicy | None, models: Models, default: str, judged: int, *, times: int) -> _Both:
    """Return what so many verdicts take; the first of them is needed."""
    found = _Both()
    if policy is not None and policy.strategy in JUDGED:
        judge, prompt = models.get(policy.model or default), judged + JUDGE_PROMPT_TOKENS
        found.need.ask(judge, prompt, JUDGE_TOKENS)
        found.spare.ask(judge, prompt, JUDGE_TOKENS, times=times - 1)
        # Each is asked for again once, if it cannot be read.
        found.spare.ask(judge, prompt + _quoted(JUDGE_TOKENS) + RE_ASK_TOKENS, JUDGE_TOKENS, times=times)
    return found


def _samples(policy: VerifyPolicy | None) -> int:
    return policy.samples if policy is not None and policy.strategy == "self_consistency" else 1


def _told_again(policy: VerifyPolicy | None, quoted: int) -> Iterator[int]:
    """Yield for each time a step may be done again the size of what it is told of the answers so far."""
    if policy is None or policy.refinement == "none" or policy.strategy == "self_consistency":
        return
    for tried in range(1, policy.max_attempts):
        told = {"retry": 0, "feedback": 1}.get(policy.refinement, tried)
        yield told * (quoted + _quoted(JUDGE_TOKENS) + AGAIN_BYTES)


def _quoted(tokens: int) -> int:
    """Return the size of an answer of so many tokens where it is told to a model."""
    return PER_MESSAGE + ANSWER_BYTES * tokens


def _bytes_of(facts: ToolFacts | None) -> int | None:
    return facts.spec_bytes if facts is not None else None


def _cost_of(facts: ToolFacts | None) -> float:
    return facts.cost_per_call_usd or 0.0 if facts is not None else 0.0


def rounded_up(tokens: int) -> int:
    """Return a number a little larger, of few digits in base two, so that like steps have one claim."""
    step = 1 << max(0, tokens.bit_length() - 4)
    return -(-tokens // step) * step

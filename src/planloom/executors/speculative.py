"""A cheaper model goes first: its draft is checked and used, or the step's own model answers.

Rule 1: a rejected draft is never the answer: if the step's own model fails after it, the step fails.
Rule 2: what cannot be judged is rejected: a judge that fails, or says anything but its one token.
Rule 3: a draft that fails, or takes too long, only means that the step's own model answers.
Rule 4: a draft is untrusted text: steps that may call tools are never drafted.
Rule 5: `compare` is no business of one step: the heart runs ahead on its draft, and the step itself runs plainly.
Rule 6: `token` and `ngram` are done by the model itself (`by_tokens.py`): one call, of which this only tells.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

from planloom.core.asking import VERDICT_TOKENS, task_of, text_of
from planloom.core.chat import Message, ModelCall
from planloom.core.prices import PER
from planloom.core.result import StepOutcome, Usage
from planloom.errors import ConfigError, GrantError
from planloom.executors.acceptance import AcceptanceGate, break_even
from planloom.executors.by_tokens import DECODING, options_of, speculated
from planloom.executors.by_tokens import policy_of as by_tokens_policy
from planloom.executors.efficiency import Speculated
from planloom.executors.llm import streams
from planloom.executors.meter import Meter, pinned
from planloom.executors.part import Part
from planloom.plan.policy import BY_TOKENS
from planloom.verify.closed import Failure, closed
from planloom.verify.fence import DATA_ONLY, fenced

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from planloom.core.chat import LLMResponse
    from planloom.core.commands import RunStep
    from planloom.executors.llm import LlmExecutor
    from planloom.models.catalogue import Models
    from planloom.models.llm import LLM
    from planloom.plan.policy import SpeculatePolicy
    from planloom.ports import AttemptContext

T = TypeVar("T")

VERDICT_PROMPT_TOKENS = 250
"""About what a judge is told besides the request and the draft."""
BEST = 9
_QUESTION = (
    "You decide whether a draft will do as the answer to a request, or a better model has to answer it. "
    "Score it from 0 to 9: 9, it is right, complete and in the form that was asked for; 0, it is wrong or no answer. "
    "Be strict: a draft with an error in it scores below 5.\n"
    f"{DATA_ONLY}\n"
    "Answer with one digit, 0 to 9, and nothing else."
)
_WORDS = {"yes": BEST, "no": 0}


@dataclass(frozen=True, slots=True)
class DraftThenCheck:
    """Around the executor of model steps: does those that speculate on one answer, and hands on all others.

    Attributes:
        gate: Whether drafting still pays; see `acceptance` for how long it remembers.
    """

    inner: LlmExecutor
    models: Models
    gate: AcceptanceGate = field(default_factory=AcceptanceGate)

    async def execute(self, request: RunStep, context: AttemptContext) -> StepOutcome:
        policy = request.step.speculate
        if policy is None or policy.policy == "compare" or request.role:
            return await self.inner.execute(request, context)
        return await _Attempt(self, request, context, policy).outcome()


class _Attempt:
    """One attempt of a step that speculates: its three parts, and what became of them."""

    def __init__(
        self, owner: DraftThenCheck, request: RunStep, context: AttemptContext, policy: SpeculatePolicy
    ) -> None:
        self.inner, self.models, self.request, self.context, self.policy = (
            owner.inner,
            owner.models,
            request,
            context,
            policy,
        )
        self.kind, self.reason = self._resolved()
        beside = self.kind == "hedged"
        self.draft, self.judge = Part(context, is_held=beside), Part(context, is_held=beside)
        self.target = Part(context)
        self.seconds = {"draft": 0.0, "judge": 0.0, "target": 0.0}
        self.score: int | None = None
        self.began_at = context.clock.now()
        self.known = owner.gate.of(_template(request, self.kind))

    def _resolved(self) -> tuple[str, str | None]:
        """Return the policy to go by, "plain" for none, and why it is none."""
        step, policy = self.request.step, self.policy
        if step.tools:
            return "plain", "the step may call tools, and a draft must not"
        asked = step.model or "default"
        by_tokens = by_tokens_policy(policy.policy, self._llm(asked))
        if by_tokens is not None:
            return by_tokens, None
        if policy.policy in ("hedged", "cascade"):
            return policy.policy, None
        if "prediction" in self._llm(asked).metadata.capabilities:
            return "predicted", None
        if policy.policy == "predicted":
            return "plain", f"{asked} takes no predictions"
        if policy.allow_lossy:
            return "cascade", None
        return "plain", f"{asked} takes no predictions, and allow_lossy is off"

    async def outcome(self) -> StepOutcome:
        if self.kind == "plain":
            return await self._plain()
        if self.kind in BY_TOKENS:
            return await self._by_tokens()
        least = self._break_even()
        if not self.known.go(least):
            self.reason = f"of its drafts {self.known.mean:.2f} were of use, and drafting pays from {least:.2f} on"
            return await self._plain()
        match self.kind:
            case "predicted":
                return await self._predicted()
            case "hedged":
                return await self._hedged()
        return await self._cascade()

    # --- policies ---

    async def _plain(self) -> StepOutcome:
        outcome = await self._answered()
        return self._told(outcome, steps=self.target.last.output_tokens)

    async def _by_tokens(self) -> StepOutcome:
        draft = None if self.policy.draft is None else self._llm(self.policy.draft)
        options, unfit = await options_of(self.kind, self._llm(self.request.step.model or "default"), draft)
        if unfit is not None:
            if self.policy.policy == "token":
                raise ConfigError(f"policy 'token' cannot be gone by: {unfit}", remedy="use another draft, or 'ngram'")
            self.kind = "ngram"
        outcome = await self._answered(options=options)
        told = speculated(
            self.kind,
            (outcome.metadata or {}).get(DECODING, {}),
            self.target.last,
            took_s=self.seconds["target"],
            wall_s=self.context.clock.now() - self.began_at,
            cost_usd=self.target.usd,
            reason=unfit,
        )
        return self._with(outcome, told)

    async def _predicted(self) -> StepOutcome:
        draft = await self._in_half_the_time(self._drafted())
        if draft is None:
            self.known.observe(0)
            outcome = await self._answered()
            return self._told(outcome, steps=self.target.last.output_tokens, wasted=(self.draft,))
        outcome = await self._answered(prediction=text_of(draft.output))
        told = outcome.metadata or {}
        answer, drafted = self.target.last.output_tokens, self.draft.last.output_tokens
        said = told.get("accepted_prediction_tokens")
        accepted = min(said or 0, answer, drafted)
        if said is None:
            self.reason = "the provider does not say how much of the draft it used"
        else:
            self.known.observe(accepted / drafted if drafted else 0)
        return self._told(
            outcome,
            steps=answer - accepted,
            accepted_tokens=accepted,
            rejected_tokens=told.get("rejected_prediction_tokens") or 0,
        )

    async def _cascade(self) -> StepOutcome:
        draft = await self._in_half_the_time(self._accepted())
        self.known.observe(int(draft is not None))
        judged = self.judge.last.output_tokens
        if draft is not None:
            return self._taken(draft)
        outcome = await self._answered()
        return self._told(outcome, steps=judged + self.target.last.output_tokens, wasted=(self.draft, self.judge))

    async def _hedged(self) -> StepOutcome:
        answering = asyncio.create_task(self._answered())
        drafting = asyncio.create_task(self._accepted())
        try:
            await asyncio.wait((answering, drafting), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() or _has_failed(answering):
                # Without an answer, an accepted draft is one.
                draft = await drafting
                self.known.observe(int(draft is not None))
                if draft is not None:
                    await _stopped(answering)
                    return self._taken(draft, wasted=(self.target,))
            elif not drafting.done():
                self.known.observe(0)
                self.reason = "the answer came before the draft was judged"
            else:
                self.known.observe(int(drafting.result() is not None))
                self.reason = self.reason or "the answer came as soon as the draft was judged"
            outcome = await answering
        finally:
            await _stopped(answering, drafting)
        return self._told(outcome, steps=self.target.last.output_tokens, wasted=(self.draft, self.judge))

    # --- parts ---

    async def _answered(self, *, prediction: str | None = None, options: dict[str, Any] | None = None) -> StepOutcome:
        began_at = self.context.clock.now()
        outcome = await self.inner.execute(self.request, self.target, prediction=prediction, options=options)
        self.seconds["target"] = self.context.clock.now() - began_at
        return outcome

    async def _drafted(self) -> StepOutcome | None:
        """Return the draft, which fits the step's schema; None if it failed, with the reason kept."""
        began_at = self.context.clock.now()
        try:
            draft = await _closed(self.inner.execute(replace(self.request, role="draft"), self.draft))
        finally:
            self.seconds["draft"] = self.context.clock.now() - began_at
            self.known.draft_s.add(self.seconds["draft"])
        if isinstance(draft, Failure):
            self.reason = f"the draft failed: {draft.error}"
            return None
        if not text_of(draft.output).strip():
            self.reason = "the draft is empty"
            return None
        return draft

    async def _accepted(self) -> StepOutcome | None:
        """Return the draft if the judge accepts it; else None, with the reason kept."""
        draft = await self._drafted()
        if draft is None:
            return None
        began_at = self.context.clock.now()
        try:
            judged = await _closed(self._judged(text_of(draft.output)))
        finally:
            self.seconds["judge"] = self.context.clock.now() - began_at
            self.known.judge_s.add(self.seconds["judge"])
        if isinstance(judged, Failure):
            self.reason = f"the judge failed: {judged.error}"
            return None
        self.score = score_of(judged.text)
        if self.score is None:
            self.reason = "the judge gave no score"
        elif self.score < self.policy.threshold:
            self.reason = f"the judge gave the draft {self.score} of {BEST}, below {self.policy.threshold}"
        else:
            return draft
        return None

    async def _judged(self, draft: str) -> LLMResponse:
        said = task_of(self.request.step, self.request.args)
        call = ModelCall(
            messages=(Message("system", _QUESTION), Message("user", fenced({"REQUEST": said, "DRAFT": draft}))),
            max_tokens=VERDICT_TOKENS,
            temperature=0.0,
        )
        return await Meter(self.judge, self.request, self.models).ask(self._judge_ref, call)

    async def _in_half_the_time(self, drafting: Coroutine[Any, Any, StepOutcome | None]) -> StepOutcome | None:
        """Await a draft for half of the time that the attempt has left: the rest is for the step's own model."""
        deadline_at = self.request.deadline_at
        left_s = None if deadline_at is None else max(0.0, deadline_at - self.context.clock.now()) / 2
        try:
            async with asyncio.timeout(left_s):
                return await drafting
        except TimeoutError:
            self.reason = "the draft took over half of the attempt's time"
            return None

    # --- the gate ---

    def _break_even(self) -> float:
        return break_even(
            self.kind,
            latency=self.known.latency_share,
            cost=self._cost_share(),
            weight=self.policy.latency_weight,
        )

    def _cost_share(self) -> float | None:
        """Return about what draft and judge cost by what the step's own model does; None while it cannot be told."""
        answer = self.known.answer_tokens.value
        step, facts = self.request.step, self.request.models
        prices = [
            facts[ref].price if ref in facts else None
            for ref in (self.policy.draft or "", self._judge_ref, step.model or "default")
        ]
        draft, judge, target = prices
        if answer is None or draft is None or judge is None or target is None:
            return None
        said = task_of(self.request.step, self.request.args)
        prompt = self._llm(step.model or "default").estimate_tokens(said)
        answered = round(answer)
        whole = target.cost_usd(Usage(prompt, answered, 1))
        first = draft.cost_usd(Usage(prompt, answered, 1))
        if self.kind != "predicted":
            first += judge.cost_usd(Usage(prompt + answered + VERDICT_PROMPT_TOKENS, 1, 1))
        return first / whole if whole > 0 else None

    # --- what is told ---

    def _taken(self, draft: StepOutcome, *, wasted: tuple[Part, ...] = ()) -> StepOutcome:
        if streams(self.request):
            self.context.stream(text_of(draft.output))
        tokens = self.draft.last.output_tokens
        return self._told(
            draft, steps=self.judge.last.output_tokens, accepted_tokens=tokens, is_draft=True, wasted=wasted
        )

    def _told(
        self,
        outcome: StepOutcome,
        *,
        steps: int,
        is_draft: bool = False,
        accepted_tokens: int = 0,
        rejected_tokens: int = 0,
        wasted: tuple[Part, ...] = (),
    ) -> StepOutcome:
        """Return the outcome with all that was used for it, and take note of what it teaches."""
        answer = (self.draft if is_draft else self.target).last.output_tokens
        self.known.answer_tokens.add(answer)
        baseline_s = self._baseline_s(answer, steps, is_draft=is_draft)
        told = Speculated(
            policy=self.kind,
            lossless=not is_draft,
            accepted=accepted_tokens > 0 or is_draft,
            judge_score=self.score,
            draft_tokens=self.draft.last.output_tokens,
            accepted_tokens=accepted_tokens,
            drafts=int(self.draft.usage.requests > 0),
            verify_steps=steps,
            output_tokens=answer,
            draft_s=self.seconds["draft"],
            verify_s=self.seconds["target"],
            judge_s=self.seconds["judge"],
            wall_s=self.context.clock.now() - self.began_at,
            baseline_est_s=baseline_s,
            draft_cost=self.draft.usd,
            verify_cost=_sum(self.judge.usd, self.target.usd),
            wasted_tokens=rejected_tokens + sum(part.usage.total_tokens for part in wasted),
            wasted_cost=_sum(self._price_of(rejected_tokens), *(part.usd for part in wasted)),
            fallback_reason=None if is_draft else self.reason,
        )
        return self._with(outcome, told)

    def _with(self, outcome: StepOutcome, told: Speculated) -> StepOutcome:
        """Return the outcome with all that was used for it, and what is told of it."""
        return StepOutcome(
            outcome.output,
            self.context.reported_usage,
            None if told.draft_cost is None or told.verify_cost is None else self.context.reported_usd,
            metadata=(outcome.metadata or {}) | {"speculation": told.to_dict()},
        )

    def _baseline_s(self, answer: int, steps: int, *, is_draft: bool) -> float | None:
        """Return the seconds that the step's own model alone takes: as it just did, else as it mostly does."""
        if is_draft:
            return self.known.target_s.value
        seconds = self.seconds["target"]
        if self.kind == "predicted" and answer:
            seconds *= answer / max(1, steps)
        self.known.target_s.add(seconds)
        return seconds

    def _price_of(self, rejected_tokens: int) -> float | None:
        if not rejected_tokens:
            return 0.0
        facts = self.request.models.get(self.request.step.model or "default")
        return None if facts is None or facts.price is None else rejected_tokens * facts.price.output / PER

    @property
    def _judge_ref(self) -> str:
        return self.policy.judge or self.request.step.model or "default"

    def _llm(self, ref: str) -> LLM:
        return pinned(self.models, ref, self.request.models.get(ref))


def score_of(verdict: str) -> int | None:
    """Return the score of a judge's one token: a digit, or yes or no; None for anything else."""
    said = verdict.strip().removesuffix(".").lower()
    if len(said) == 1 and said in "0123456789":
        return int(said)
    return _WORDS.get(said)


async def _closed(doing: Awaitable[T]) -> T | Failure:
    """Return what it comes to, or why it failed; a call that would pass the grant is a failed one too."""
    try:
        return await closed(doing)
    except GrantError as error:
        return Failure(error.message)


async def _stopped(*tasks: asyncio.Task[Any]) -> None:
    """Stop what is still under way, and wait until it has ended: its books are closed then."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _template(request: RunStep, kind: str) -> str:
    """Return what is the same for all calls that are drafted alike, whatever they are about."""
    step = request.step
    assert step.speculate is not None
    said = [kind, step.model, step.speculate.model_dump_json(), step.system, step.prompt, step.args, step.output]
    return sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


def _sum(*costs: float | None) -> float | None:
    return None if None in costs else sum(cost for cost in costs if cost is not None)

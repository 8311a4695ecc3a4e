"""What both executors are inside: models with names, settings, what was kept, what was counted.

Rule 1: what failed raises, with the model's own error; no error text is ever an answer, and none is kept.
Rule 2: the answer of `stream`, put together, is the answer of `execute`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planloom.api.documents import with_documents
from planloom.api.execution import ExecutionResult, ExecutorConfig, ExecutorStats
from planloom.api.kept import KeptResults, key_of
from planloom.api.one_step import ANSWER, DRAFT, JUDGE, MODEL, Asked, Question, Seen, llm_of, pieces, raise_for
from planloom.context.document import documents_of
from planloom.core.result import RunResult, StepResult, StepStatus, Usage
from planloom.errors import ConfigError, UnknownFieldError, VerificationError, suggestion
from planloom.executors.acceptance import AcceptanceGate
from planloom.executors.efficiency import Speculated
from planloom.plan.policy import VerifyPolicy
from planloom.verify.flow import VerificationFlow

if TYPE_CHECKING:
    from planloom.context.graph import DependencyGraph
    from planloom.models.llm import LLM
    from planloom.plan.gasa import GasaPolicy
    from planloom.plan.policy import SpeculatePolicy
    from planloom.ports import Model
    from planloom.verify.checks import ValidatorRegistry
    from planloom.verify.judge import JudgeAgent

_log = logging.getLogger("planloom.executor")

GENERATION = ("max_tokens", "system", "temperature")
"""What one call may say in place of the configuration."""
_STREAMED = frozenset({"none", "basic"})
"""Strategies whose answers may be heard before they are whole: nothing can reject them but that they are empty."""


class Door:
    """One question after the other to the same models."""

    def __init__(
        self,
        models: Mapping[str, LLM | Model | str],
        config: ExecutorConfig,
        *,
        judge_agent: JudgeAgent | None,
        validators: ValidatorRegistry | None,
        speculate: SpeculatePolicy | None = None,
        is_speculative: bool = False,
        gasa: GasaPolicy | None = None,
        graph: DependencyGraph | None = None,
    ) -> None:
        self.config = config
        self.stats = ExecutorStats()
        llms = {name: llm_of(model) for name, model in models.items()}
        self._own = [llms[name] for name, model in models.items() if isinstance(model, str)]
        if judge_agent is not None:
            llms[JUDGE] = judge_agent.model
        self._verify = _verification(config, llms[MODEL], judge_agent, validators)
        self._is_speculative = is_speculative
        self._gasa = gasa
        self._graph = graph
        self._is_compared = speculate is not None and speculate.policy == "compare"
        self._speculate = None if self._is_compared else speculate
        self._asked = Asked(
            models=llms,
            draft={"temperature": config.draft_temperature, "max_tokens": config.max_draft_tokens},
            judges={} if judge_agent is None else {JUDGE: judge_agent},
            validators=validators,
            gate=AcceptanceGate(),
        )
        self._kept = KeptResults(config.cache_dir)
        if config.log_level is not None:
            _log.setLevel(config.log_level)

    async def close(self) -> None:
        for llm in self._own:
            await llm.close()

    async def execute(
        self, prompt: str, documents: Sequence[Any] | None, generation: Mapping[str, Any]
    ) -> ExecutionResult:
        question = self._question(prompt, documents, generation)
        kept = await self._known(question)
        if kept is not None:
            return kept
        seen, began_at = Seen(), time.monotonic()
        try:
            run = await self._asked.answer(question, seen)
        except BaseException:
            self.stats = self.stats.with_failure()
            raise
        return await self._ended(question, run, seen, time.monotonic() - began_at)

    async def stream(
        self, prompt: str, documents: Sequence[Any] | None, generation: Mapping[str, Any]
    ) -> AsyncIterator[str]:
        question = self._question(prompt, documents, generation)
        verify = question.verify
        if not self.config.enable_streaming or (verify is not None and verify.strategy not in _STREAMED):
            result = await self.execute(prompt, documents, generation)
            for piece in self._cut(result.text):
                yield piece
            return
        kept = await self._known(question)
        if kept is not None:
            for piece in self._cut(kept.text):
                yield piece
            return
        seen, began_at, heard = Seen(), time.monotonic(), ""
        is_whole = False
        try:
            async with self._asked.begun(replace(question, verify=None, is_streamed=True), seen) as (engine, run):
                async for piece in pieces(run):
                    heard += piece
                    yield piece
                ended = await engine.finish(run)
            raise_for(ended, seen)
            text = str(ended.step(ANSWER).output)
            if verify is not None and not text.strip():
                raise VerificationError("there is no answer", remedy="ask again, or ask another model")
            is_whole = True
        finally:
            if not is_whole:
                self.stats = self.stats.with_failure()
        result = await self._ended(question, ended, seen, time.monotonic() - began_at)
        for piece in self._cut(result.text.removeprefix(heard)):
            yield piece

    def _question(self, prompt: str, documents: Sequence[Any] | None, generation: Mapping[str, Any]) -> Question:
        if not isinstance(prompt, str):
            raise ConfigError(f"the prompt is a {type(prompt).__name__}", remedy="give text")
        unknown = sorted(generation.keys() - set(GENERATION))
        if unknown:
            raise UnknownFieldError(
                f"execute takes no {', '.join(map(repr, unknown))}; it takes {', '.join(GENERATION)}",
                remedy=suggestion(unknown[0], GENERATION),
            )
        config = self.config
        most, warm = config.max_final_tokens or config.max_tokens, config.final_temperature
        told = {"max_tokens": most, "temperature": config.temperature if warm is None else warm}
        told |= {name: value for name, value in generation.items() if name != "system" and value is not None}
        checked = ExecutorConfig(**told)
        reading: dict[str, Any] = {"prompt": with_documents(prompt, documents)}
        if self._gasa is not None:
            # What is looked at is the text: a vector would only make the record long.
            read = tuple(replace(document, embedding=None).to_dict() for document in documents_of(documents))
            graph = None if self._graph is None else self._graph.to_dict()
            reading = {"prompt": prompt, "documents": read, "graph": graph, "gasa": self._gasa}
        return Question(
            **reading,
            system=generation.get("system"),
            max_tokens=checked.max_tokens,
            temperature=checked.temperature,
            verify=self._verify,
            speculate=self._speculate,
            is_compared=self._is_compared,
        )

    # --- results ---

    async def _known(self, question: Question) -> ExecutionResult | None:
        if not self.config.cache_results:
            return None
        kept = await self._kept.get(self._key(question))
        if kept is None:
            return None
        self.stats = self.stats.with_hit()
        # Nothing was asked this time.
        return replace(
            kept,
            usage=Usage(),
            cost_usd=0.0,
            draft_latency_ms=None,
            final_latency_ms=None,
            total_latency_ms=0.0,
            metadata=kept.metadata | {"cached": True},
        )

    def _key(self, question: Question) -> str:
        return key_of(
            question.plan.to_dict(),
            question.inputs,
            {name: str(llm.uri) for name, llm in self._asked.models.items()},
            dict(self._asked.draft),
            self._is_speculative,
        )

    async def _ended(self, question: Question, run: RunResult, seen: Seen, wall_s: float) -> ExecutionResult:
        result = self._result(run, seen, wall_s)
        self.stats = self.stats.with_result(result)
        _log.info("answered in %.3f s, %d tokens", wall_s, result.usage.total_tokens)
        if self.config.cache_results:
            await self._kept.put(self._key(question), result)
        return result

    def _result(self, run: RunResult, seen: Seen, wall_s: float) -> ExecutionResult:
        step = run.step(ANSWER)
        text = str(step.output)
        metadata = dict(step.metadata or {})
        speculated = metadata.pop("speculation", None)
        if speculated is None and self._is_speculative:
            speculated = self._compared(run, seen, wall_s) if self._is_compared else _not_speculated(step, seen, wall_s)
        metadata |= speculated or {}
        told = speculated or {"draft_s": 0.0, "verify_s": step.busy_s}
        checked = self._verify is not None
        return ExecutionResult(
            text=text,
            usage=run.usage,
            metadata=metadata,
            provider=str(metadata.get("provider", "")),
            model_name=str(metadata.get("model_name", "")),
            verified=metadata.get("verified", True) if checked else None,
            verification_score=metadata.get("verification_score"),
            verification_feedback=metadata.get("verification_feedback"),
            draft_latency_ms=told["draft_s"] * 1000 or None,
            final_latency_ms=told["verify_s"] * 1000 or None,
            total_latency_ms=wall_s * 1000,
            refinement_attempts=metadata.get("refinement_attempts", 1),
            cost_usd=_cost(run),
            response=seen.answer(text),
        )

    def _compared(self, run: RunResult, seen: Seen, wall_s: float) -> dict[str, Any]:
        """Return what is told of a draft that was only compared: it saved nothing, and shows what it would be worth."""
        draft, answer = run.step(DRAFT), run.step(ANSWER)
        is_equal = draft.status is StepStatus.COMPLETED and draft.output == answer.output
        drafted, used = draft.usage or Usage(), _tokens(answer, seen)
        cost = draft.cost_usd if draft.usage is not None else 0.0
        return Speculated(
            policy="compare",
            accepted=is_equal,
            draft_tokens=drafted.output_tokens,
            accepted_tokens=drafted.output_tokens if is_equal else 0,
            drafts=int(drafted.requests > 0),
            verify_steps=used,
            output_tokens=used,
            draft_s=draft.busy_s,
            verify_s=answer.busy_s,
            wall_s=wall_s,
            baseline_est_s=answer.busy_s,
            draft_cost=cost,
            verify_cost=answer.cost_usd,
            wasted_tokens=drafted.total_tokens,
            wasted_cost=cost,
            fallback_reason=None if draft.error is None else f"the draft failed: {draft.error}",
        ).to_dict() | {"equal": is_equal}

    def _cut(self, text: str) -> list[str]:
        """Return a text in pieces of so many words; put together they are the text."""
        words = re.findall(r"\s*\S+\s*?(?=\s|$)|\s+", text)
        size = self.config.stream_chunk_size
        return ["".join(words[place : place + size]) for place in range(0, len(words), size)]


def _verification(
    config: ExecutorConfig, llm: LLM, judge: JudgeAgent | None, validators: ValidatorRegistry | None
) -> VerifyPolicy | None:
    """Return how a step's answer is verified; whatever that needs is there.

    Raises:
        ConfigError: It is not.
    """
    strategy = config.verification_strategy
    if strategy == "none":
        return None
    # Made for its checks alone: the step makes its own when there is something to judge.
    VerificationFlow(llm, strategy, validators=config.validators, judge=judge, registry=validators)
    threshold = config.verification_threshold
    if judge is not None and "verification_threshold" not in config.model_fields_set:
        threshold = judge.config.threshold
    return VerifyPolicy(
        strategy=strategy,
        model=None if judge is None else JUDGE,
        threshold=threshold,
        validators=config.validators,
        refinement="none" if strategy == "self_consistency" else config.refinement_strategy,
        max_attempts=config.max_refinement_attempts,
    )


def _not_speculated(step: StepResult, seen: Seen, wall_s: float) -> dict[str, Any]:
    used = _tokens(step, seen)
    return Speculated(
        policy="off",
        verify_steps=used,
        output_tokens=used,
        verify_s=step.busy_s,
        wall_s=wall_s,
        baseline_est_s=wall_s,
        verify_cost=step.cost_usd,
        fallback_reason="enable_speculative is off",
    ).to_dict()


def _tokens(step: StepResult, seen: Seen) -> int:
    """Return the tokens of the answer itself."""
    answer = seen.answer(str(step.output))
    usage = step.usage if answer is None else answer.usage
    return 0 if usage is None else usage.output_tokens


def _cost(run: RunResult) -> float | None:
    """Return what all steps cost; None if one asked a model whose price nobody knows."""
    costs = [step.cost_usd for step in run.steps if step.usage is not None]
    return None if None in costs else sum(cost for cost in costs if cost is not None)

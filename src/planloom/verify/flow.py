"""VerificationFlow: is an answer good enough? One mechanism, seven strategies, one `Verdict`.

Rule 1: it fails closed: what cannot be judged is not valid, and `error` says why. Only strategy "none" passes unread.
Rule 2: what a strategy needs is there when the flow is made, or the flow is not made.
Rule 3: a flow keeps nothing between two answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from planloom.core.asking import text_of
from planloom.core.chat import Message, ModelCall
from planloom.core.result import Usage
from planloom.errors import ConfigError, OutputError, VerificationError, suggestion
from planloom.models.llm import LLM, ask_plainly
from planloom.plan.policy import Strategy
from planloom.plan.values import as_json
from planloom.together import together
from planloom.verify.asking import CountedAsker, ask_for_verdict, closed_schema, llm_of, score_of, words_of
from planloom.verify.checks import ValidatorRegistry, Wanted
from planloom.verify.closed import Failure, closed
from planloom.verify.consistency import Agreement, agreement, canonical
from planloom.verify.judge import DEFAULT_THRESHOLD, JudgeAgent, JudgeConfig, Judgement
from planloom.verify.rubric import Rubric
from planloom.verify.verdict import Check, Verdict

if TYPE_CHECKING:
    from planloom.models.llm import Asker
    from planloom.plan.policy import VerifyPolicy

STRATEGIES: tuple[str, ...] = get_args(Strategy)
NOTHING_CHECKED = "nothing was checked"
SAMPLES_AT_ONCE = 5
SAMPLE_TEMPERATURE = 0.7
"""Of answers that are made to be compared: at 0 they would all be one."""

_TOLD = """\
You check an answer to a task. Say in `is_valid` whether it is right and does what the task asks, in `score` how sure
you are that it is, from 0 (surely not) to 1 (surely), and in `reason` why; if it is not, what would have to change.
"""
_ANSWER = closed_schema(
    {
        "is_valid": {"type": "boolean"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "reason": {"type": "string"},
    }
)


class VerificationFlow:
    """Judges answers.

    Args:
        model: Who judges, or its URI; for `model`, `judge`, `full`, and `self_consistency` without given samples.
        strategy: One of STRATEGIES.
        threshold: Least score that passes; None: that of `judge`, else 0.7.
        rubric: What a judge scores by; None: that of `judge`, else the general one.
        validators: Names, ``{name: {option: value}}`` or functions; for `validator` and `full`.
        samples: Of `self_consistency`: how many answers are compared where none are given.
        judge: Instead of `model`, for `judge` and `full`.
        registry: Where validators are looked up; None: the built-in ones.
        ask: How models are asked; None: plainly.

    Raises:
        ConfigError: No such strategy, or something it needs is missing or wrong.
    """

    def __init__(
        self,
        model: LLM | str | None = None,
        strategy: str = "model",
        *,
        threshold: float | None = None,
        rubric: Rubric | Mapping[str, float] | str | None = None,
        validators: Sequence[Wanted] = (),
        samples: int = 5,
        judge: JudgeAgent | None = None,
        registry: ValidatorRegistry | None = None,
        ask: Asker | None = None,
    ) -> None:
        if strategy not in STRATEGIES:
            message = f"there is no verification strategy {strategy!r}; there are {', '.join(STRATEGIES)}"
            raise ConfigError(message, remedy=suggestion(strategy, STRATEGIES))
        if threshold is None:
            threshold = judge.config.threshold if judge is not None else DEFAULT_THRESHOLD
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold is {threshold}", remedy="give a number from 0 to 1")
        if samples < 2:
            raise ConfigError(f"samples is {samples}, and nothing can be compared", remedy="give 2 or more")
        self.strategy = strategy
        self.threshold = threshold
        self.samples = samples
        self._ask = ask
        self._rubric = None if rubric is None else Rubric.of(rubric)
        self._model = None if model is None else llm_of(model)
        self._judge = judge
        if judge is None and self._model is not None:
            self._judge = JudgeAgent(self._model, JudgeConfig(threshold=threshold, rubric=self._rubric))
        self._validators = (registry or ValidatorRegistry()).all_of(validators)
        self._check_parts()

    def _check_parts(self) -> None:
        missing = []
        if self.strategy == "model" and self._model is None:
            missing.append("model")
        if self.strategy in ("judge", "full") and self._judge is None:
            missing.append("judge")
        if self.strategy in ("validator", "full") and not self._validators:
            missing.append("validators")
        if missing:
            raise ConfigError(
                f"verification strategy {self.strategy!r} has no {' and no '.join(missing)}",
                remedy=f"give {' and '.join(f'{name}=' for name in missing)}: without, nothing would pass",
            )

    async def verify(self, prompt: Any, output: Any, *, samples: Sequence[Any] | None = None) -> Verdict:
        """Return the verdict on an answer.

        Args:
            prompt: What was asked: text, or any JSON.
            output: The answer: text, or any JSON.
            samples: Of `self_consistency`: all answers to the prompt, this one among them; None: the model is asked
                for others.

        Raises:
            ConfigError: `self_consistency` without samples and without a model.
            GrantError: The limit of whoever asks is used up; nothing was judged.
        """
        if self.strategy == "none":
            return Verdict(is_valid=True, feedback=NOTHING_CHECKED, strategy="none")
        try:
            answer = as_json(output, where="answer")
        except OutputError as error:
            return self._cannot(error.message, Usage())
        prompt = text_of(prompt)
        if self.strategy == "self_consistency":
            return await self._consistent(prompt, answer, samples)
        return await self._ways()[self.strategy](prompt, answer)

    def _ways(self) -> Mapping[str, Callable[[str, Any], Awaitable[Verdict]]]:
        return {
            "basic": self._basic,
            "model": self._by_model,
            "judge": self._by_judge,
            "validator": self._by_validators,
            "full": self._full,
        }

    def _cannot(self, error: str, usage: Usage) -> Verdict:
        return cannot_judge(self.strategy, error, usage)

    async def _basic(self, prompt: str, answer: Any) -> Verdict:
        empty = answer is None or answer in ([], {}) or (isinstance(answer, str) and not answer.strip())
        feedback = "there is no answer" if empty else "there is an answer; nothing else was checked"
        return Verdict(is_valid=not empty, feedback=feedback, strategy=self.strategy)

    async def _by_model(self, prompt: str, answer: Any) -> Verdict:
        counted = CountedAsker(self._ask or ask_plainly)
        said = await closed(self._asked(prompt, answer, counted))
        if isinstance(said, Failure):
            return self._cannot(said.error, counted.usage)
        agrees, score, reason = said
        return Verdict(
            is_valid=agrees and score >= self.threshold,
            feedback=reason,
            strategy=self.strategy,
            score=score,
            critique=reason,
            usage=counted.usage,
        )

    async def _asked(self, prompt: str, answer: Any, ask: Asker) -> tuple[bool, float, str]:
        if self._model is None:
            raise VerificationError("there is no model to ask")
        said = await ask_for_verdict(self._model, _TOLD, {"task": prompt, "answer": text_of(answer)}, _ANSWER, ask=ask)
        return said.get("is_valid") is True, score_of(said.get("score"), "score"), words_of(said.get("reason"))

    async def _judged(self, prompt: str, answer: Any) -> Judgement:
        if self._judge is None:
            return Judgement(passed=False, error="there is no judge")
        return await self._judge.judge(answer, prompt, self._rubric, ask=self._ask)

    async def _by_judge(self, prompt: str, answer: Any) -> Verdict:
        return self._of_judgement(await self._judged(prompt, answer))

    def _of_judgement(self, said: Judgement) -> Verdict:
        if said.error is not None or said.overall_score is None:
            return self._cannot(said.error or "the judge gave no score", said.usage)
        return Verdict(
            is_valid=said.overall_score >= self.threshold,
            feedback=_together([said.critique, *said.suggestions]),
            strategy=self.strategy,
            score=said.overall_score,
            dimension_scores=said.dimension_scores,
            critique=said.critique,
            suggestions=said.suggestions,
            usage=said.usage,
        )

    async def _by_validators(self, prompt: str, answer: Any) -> Verdict:
        checks = [await validator.check(answer, prompt) for validator in self._validators]
        passed = [check for check in checks if check.passed]
        return Verdict(
            is_valid=bool(checks) and len(passed) == len(checks),
            feedback=_of_checks(checks),
            strategy=self.strategy,
            score=len(passed) / len(checks) if checks else 0.0,
            checks=tuple(checks),
        )

    async def _full(self, prompt: str, answer: Any) -> Verdict:
        by_checks = await self._by_validators(prompt, answer)
        by_judge = await self._by_judge(prompt, answer)
        return Verdict(
            is_valid=by_checks.is_valid and by_judge.is_valid,
            feedback=_together([by_checks.feedback, by_judge.feedback]),
            strategy=self.strategy,
            score=by_judge.score,
            error=by_judge.error,
            dimension_scores=by_judge.dimension_scores,
            critique=by_judge.critique,
            suggestions=by_judge.suggestions,
            usage=by_judge.usage,
            checks=by_checks.checks,
        )

    async def _consistent(self, prompt: str, answer: Any, samples: Sequence[Any] | None) -> Verdict:
        if samples is not None:
            return of_agreement(agreement(samples), samples, answer)
        if self._model is None:
            raise ConfigError(
                "there is nothing to compare the answer with", remedy="give samples=, or a model to make them with"
            )
        counted = CountedAsker(self._ask or ask_plainly)
        more = [partial(self._sample, self._model, prompt, counted) for _ in range(self.samples - 1)]
        made = await together(more, limit=SAMPLES_AT_ONCE)
        answers = [answer, *(one for one in made if not isinstance(one, Failure))]
        return of_agreement(agreement(answers, total=self.samples), answers, answer, usage=counted.usage)

    async def _sample(self, model: LLM, prompt: str, ask: Asker) -> str | Failure:
        call = ModelCall(messages=(Message("user", prompt),), temperature=SAMPLE_TEMPERATURE)

        async def made() -> str:
            return (await ask(model, call)).text

        return await closed(made())


def check_policy(policy: VerifyPolicy, registry: ValidatorRegistry) -> None:
    """Check what a plan says of verification against what there is, before anything runs; models aside.

    Raises:
        ConfigError: A validator that is not here, options it does not take, a rubric that is none, or no validators.
    """
    Rubric.of(policy.rubric)
    found = registry.all_of(policy.validators)
    if policy.strategy in ("validator", "full") and not found:
        raise ConfigError(
            f"verification strategy {policy.strategy!r} has no validators",
            remedy=f"name some: {', '.join(registry.names())}",
        )


def cannot_judge(strategy: str, error: str, usage: Usage) -> Verdict:
    """Return the verdict on what could not be judged: not valid."""
    feedback = f"it could not be judged: {error}"
    return Verdict(is_valid=False, feedback=feedback, strategy=strategy, error=error, usage=usage)


def of_agreement(found: Agreement, answers: Sequence[Any], answer: Any, *, usage: Usage | None = None) -> Verdict:
    """Return the verdict on one of several answers: valid if most of them say what it says.

    Args:
        answers: Those that `found` is about.
    """
    said = f"{found.votes} of {found.total} answers say the same"
    agrees = False
    if found.place is None or not found.is_majority:
        feedback = f"there is no majority: at most {said}"
    else:
        agrees = canonical(answers[found.place]) == canonical(answer)
        feedback = said if agrees else f"{said}, and this is not what they say"
    return Verdict(
        is_valid=agrees, feedback=feedback, strategy="self_consistency", score=found.share, usage=usage or Usage()
    )


def _of_checks(checks: Sequence[Check]) -> str:
    failed = [f"{check.name}: {check.feedback or 'it did not pass'}" for check in checks if not check.passed]
    if failed:
        return _together(failed)
    return _together([f"{check.name}: {check.feedback or 'passed'}" for check in checks])


def _together(texts: Sequence[str]) -> str:
    return "\n".join(text for text in texts if text)

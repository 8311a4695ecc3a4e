"""JudgeAgent: a model that scores answers by a rubric.

Rule 1: it fails closed: no answer, one of another form, a score missing or out of range: not passed, with `error`.
Rule 2: the budget is reserved before a call: with none left no model is asked, and nothing passes.
Rule 3: the overall score is worked out from the scores by weight; the judge is not asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from planloom.core.asking import JUDGE_TOKENS, prompt_ceiling, text_of
from planloom.core.result import Usage
from planloom.errors import UnknownFieldError, UnknownPriceError, VerificationError
from planloom.models.llm import LLM, ask_plainly
from planloom.plan.values import as_json
from planloom.together import together
from planloom.verify.asking import CountedAsker, ask_for_verdict, closed_schema, llm_of, score_of, words_of
from planloom.verify.closed import Failure, closed
from planloom.verify.rubric import DEFAULT_TEMPLATE, Rubric

if TYPE_CHECKING:
    from planloom.core.chat import LLMResponse, ModelCall
    from planloom.models.llm import Asker

MAX_SUGGESTIONS = 10
DEFAULT_THRESHOLD = 0.7

_TOLD = """\
You judge an answer to a task, strictly and by the rubric alone. Score each of its dimensions from 0 (not at all) to 1
(fully). In `critique` say in a few sentences what is wrong with the answer, and list in `suggestions` what would make
it better, so that somebody who has only the task and the answer can mend it.

Rubric:
"""


class JudgeConfig(BaseModel):
    """How a judge judges, and what it may use.

    Raises:
        UnknownFieldError: A keyword that is not listed here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: Annotated[float, Field(ge=0, le=1)] = DEFAULT_THRESHOLD
    """Least overall score that passes."""
    rubric: Rubric | None = None
    """A `Rubric`, the weights by dimension, or the name of a template; None: that of `template`."""
    template: str = DEFAULT_TEMPLATE
    """Name of the rubric used where none is given: "general", "code", "summary" or "extraction"."""
    budget_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """US dollars of all its calls; it needs a model whose price is known."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """Calls of its model."""
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds for one verdict."""

    def __init__(self, **fields: Any) -> None:
        unknown = sorted(fields.keys() - JudgeConfig.model_fields.keys())
        if unknown:
            raise UnknownFieldError(
                f"JudgeConfig has no {', '.join(map(repr, unknown))}",
                remedy=f"use one of: {', '.join(JudgeConfig.model_fields)}",
            )
        super().__init__(**fields)

    @field_validator("rubric", mode="before")
    @classmethod
    def _rubric(cls, value: Any) -> Any:
        return Rubric.of(value) if isinstance(value, str | Mapping) else value

    @field_validator("template")
    @classmethod
    def _template(cls, value: str) -> str:
        return Rubric.of(value).name

    @property
    def scored_by(self) -> Rubric:
        return self.rubric or Rubric.of(self.template)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a judge says of one answer.

    Attributes:
        overall_score: 0 to 1, the weighted mean; None if there was no verdict.
        critique: What is wrong with the answer.
        suggestions: What would make it better.
        error: Why there is no verdict; then it has not passed.
        usage: Tokens of the calls it took.
    """

    passed: bool
    overall_score: float | None = None
    dimension_scores: Mapping[str, float] = field(default_factory=dict)
    critique: str = ""
    suggestions: tuple[str, ...] = ()
    error: str | None = None
    usage: Usage = field(default_factory=Usage)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "passed": self.passed,
            "overall_score": self.overall_score,
            "dimension_scores": dict(self.dimension_scores),
            "critique": self.critique,
            "suggestions": list(self.suggestions),
            "error": self.error,
            "usage": self.usage.to_dict(),
        }


class JudgeAgent:
    """Scores answers with a model; keeps count of what it used.

    Args:
        model: The model, or its URI.
        ask: How it is asked; None: plainly.

    Attributes:
        calls: Calls so far.
        spent_usd: What they cost; of a model without a known price always 0.0.

    Raises:
        UnknownPriceError: `budget_usd` is set, and nobody knows what the model costs.
    """

    def __init__(self, model: LLM | str, config: JudgeConfig | None = None, *, ask: Asker | None = None) -> None:
        self.model = llm_of(model)
        self.config = config or JudgeConfig()
        self.calls = 0
        self.spent_usd = 0.0
        self._ask = ask or ask_plainly
        if self.config.budget_usd is not None and self.model.metadata.price is None:
            raise UnknownPriceError(
                f"the judge may spend {self.config.budget_usd} USD, and nobody knows what {self.model.uri} costs",
                remedy="give its price in the settings, or use `max_calls`",
            )

    async def judge(
        self,
        output: Any,
        prompt: str,
        rubric: Rubric | Mapping[str, float] | str | None = None,
        *,
        ask: Asker | None = None,
    ) -> Judgement:
        """Return what the judge says of an answer to a prompt.

        Args:
            output: The answer, any JSON.
            rubric: For this answer; None: the configuration's.
            ask: How the model is asked this once; None: as always.

        Raises:
            ConfigError: No such rubric.
            GrantError: The limit of whoever asks is used up.
        """
        by = self.config.scored_by if rubric is None else Rubric.of(rubric)
        counted = CountedAsker(self._within_budget(ask or self._ask))
        said = await closed(self._scores(output, prompt, by, counted))
        if isinstance(said, Failure):
            return Judgement(passed=False, error=said.error, usage=counted.usage)
        scores, critique, suggestions = said
        overall = by.overall(scores)
        return Judgement(
            passed=overall >= self.config.threshold,
            overall_score=overall,
            dimension_scores=scores,
            critique=critique,
            suggestions=suggestions,
            usage=counted.usage,
        )

    async def judge_batch(
        self,
        items: Iterable[tuple[Any, str]],
        *,
        rubric: Rubric | Mapping[str, float] | str | None = None,
        concurrency: int = 4,
    ) -> list[Judgement]:
        """Return what the judge says of each (output, prompt), in order, at most `concurrency` at a time."""
        asking = [partial(self.judge, output, prompt, rubric) for output, prompt in items]
        return await together(asking, limit=max(1, concurrency))

    async def _scores(
        self, output: Any, prompt: str, rubric: Rubric, ask: Asker
    ) -> tuple[dict[str, float], str, tuple[str, ...]]:
        texts = {"task": prompt, "answer": text_of(as_json(output, where="answer"))}
        said = await ask_for_verdict(
            self.model, _told(rubric), texts, _schema(rubric), ask=ask, timeout_s=self.config.timeout_s
        )
        suggestions = said.get("suggestions")
        listed = suggestions if isinstance(suggestions, list) else []
        return _scores_of(said, rubric), words_of(said.get("critique")), tuple(map(words_of, listed[:MAX_SUGGESTIONS]))

    def _within_budget(self, ask: Asker) -> Asker:
        async def asked(llm: LLM, call: ModelCall) -> LLMResponse:
            held = self._reserve(llm, call)
            response = await ask(llm, call)  # what fails may be billed all the same: then it stays booked as reserved
            price = llm.metadata.price
            self.spent_usd += (price.cost_usd(response.usage) if price is not None else 0.0) - held
            return response

        return asked

    def _reserve(self, llm: LLM, call: ModelCall) -> float:
        """Count a call and book the most it can cost, which is returned."""
        price, config = llm.metadata.price, self.config
        most = 0.0 if price is None else price.ceiling_usd(prompt_ceiling(call), call.max_tokens or JUDGE_TOKENS)
        if config.max_calls is not None and self.calls >= config.max_calls:
            raise VerificationError(
                f"the judge has made all of its calls: {config.max_calls}", remedy="raise `max_calls`"
            )
        if config.budget_usd is not None and self.spent_usd + most > config.budget_usd:
            raise VerificationError(
                f"the judge has {config.budget_usd - self.spent_usd:.6f} USD left, and a call may cost {most:.6f}",
                remedy="raise `budget_usd`",
            )
        self.calls += 1
        self.spent_usd += most
        return most


def _told(rubric: Rubric) -> str:
    return _TOLD + "\n".join(
        f"- {one.name}: {one.description}" if one.description else f"- {one.name}" for one in rubric.dimensions
    )


def _schema(rubric: Rubric) -> dict[str, Any]:
    score = {"type": "number", "minimum": 0, "maximum": 1}
    return closed_schema(
        {
            "scores": closed_schema(dict.fromkeys(rubric.names, score)),
            "critique": {"type": "string"},
            "suggestions": {"type": "array", "items": {"type": "string"}},
        }
    )


def _scores_of(said: Mapping[str, Any], rubric: Rubric) -> dict[str, float]:
    scores = said.get("scores")
    if not isinstance(scores, dict):
        raise VerificationError("the judge gave no scores")
    return {name: score_of(scores.get(name), name) for name in rubric.names}

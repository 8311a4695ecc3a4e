"""What an executor is told, and what one execution comes to.

Rule 1: an unknown key is an error that lists the keys there are; so is a value that nothing here can honour.
Rule 2: a result is whole or there is none: what failed raises. It goes into a dict and back without loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from planloom.api.checked import checked
from planloom.core.chat import LLMResponse, ToolCall
from planloom.core.result import Usage
from planloom.errors import ConfigError
from planloom.plan.policy import PositiveInt, Refinement, Strategy
from planloom.plan.terms import fresh

Temperature = Annotated[float, Field(ge=0, le=2)]
RENAMED = {"enable_speculative_execution": "enable_speculative", "validation_type": "verification_strategy"}
"""Names that older programs use, and what they are called."""


class ExecutorConfig(BaseModel):
    """How an executor asks its model.

    Raises:
        UnknownFieldError: A keyword that is not listed here.
        ConfigError: A value that is out of bounds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: PositiveInt | None = None
    """Most tokens of the answer; None: the model's own limit."""
    temperature: Temperature = 0.7
    verification_strategy: Strategy = "basic"
    """How the answer is judged; see docs/guides/verification.md. `model`, `judge` and `full` ask the executor's own
    model, unless it has a judge."""
    verification_threshold: Annotated[float, Field(ge=0, le=1)] = 0.7
    """Least score that passes."""
    validators: tuple[str | dict[str, Any], ...] = ()
    """For `validator` and `full`: names, or ``{name: {option: value}}``."""
    refinement_strategy: Refinement = "feedback"
    """What follows a bad verdict."""
    max_refinement_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Answers in all, the first included."""
    enable_speculative: bool = False
    """For `SpeculativeExecutor`, which speculates unless this says False."""
    draft_temperature: Temperature = 0.2
    max_draft_tokens: PositiveInt | None = None
    """None: as the answer."""
    final_temperature: Temperature | None = None
    """Of the answer; None: `temperature`."""
    max_final_tokens: PositiveInt | None = None
    """Of the answer; None: `max_tokens`."""
    enable_gasa: bool = False
    enable_streaming: bool = True
    """False: `stream` waits for the whole answer and hands it on in pieces."""
    stream_chunk_size: PositiveInt = 10
    """Words of a piece, where a whole answer is handed on in pieces."""
    cache_results: bool = True
    """The same question, documents and settings give the same result again, for as long as the executor lives."""
    cache_dir: Path | None = None
    """Folder in which results are kept beyond that; nothing in it is ever deleted."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = None
    """Of the logger `planloom.executor`; None: left as it is."""

    def __init__(self, **fields: Any) -> None:
        with checked(ExecutorConfig, fields, remedy="give a value within bounds", renamed=RENAMED):
            super().__init__(**fields)

    def with_changes(self, **changes: Any) -> ExecutorConfig:
        """Return it with other values, checked like these."""
        return ExecutorConfig(**{name: getattr(self, name) for name in self.model_fields_set} | changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """An answer of a model, and how it came about.

    Attributes:
        usage: Tokens of every call it took, drafts, judges and refinements too; also ``usage["total_tokens"]``.
        metadata: How it was done, JSON. Of a `SpeculativeExecutor` also what speculation saved or cost.
        verified: Whether the answer was judged good enough; None where nothing looked at it.
        verification_score: 0 to 1; None where nothing was scored.
        draft_latency_ms: None where there was no draft.
        final_latency_ms: Of the model that was to answer; None where a draft was taken before it was asked.
        refinement_attempts: Answers that were made until one passed.
        cost_usd: US dollars; None where nobody knows a price.
        response: What the provider said; None where it cannot be told which answer was taken.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    metadata: dict[str, Any] = field(default_factory=dict)
    provider: str = ""
    model_name: str = ""
    verified: bool | None = None
    verification_score: float | None = None
    verification_feedback: str | None = None
    draft_latency_ms: float | None = None
    final_latency_ms: float | None = None
    total_latency_ms: float = 0.0
    refinement_attempts: int = 1
    cost_usd: float | None = None
    response: LLMResponse | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON."""
        told = {name: getattr(self, name) for name in self.__slots__}
        told["metadata"] = fresh(self.metadata)
        told["usage"] = _counts(self.usage)
        if self.response is not None:
            told["response"] = {
                "text": self.response.text,
                "provider": self.response.provider,
                "model_name": self.response.model_name,
                "usage": _counts(self.response.usage),
                "metadata": fresh(self.response.metadata),
                "tool_calls": [
                    {"id": one.id, "name": one.name, "arguments": one.arguments} for one in self.response.tool_calls
                ],
            }
        return told

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> ExecutionResult:
        """Return the result of `to_dict`.

        Raises:
            ConfigError: It is not one.
        """
        try:
            fields = dict(told)
            fields["usage"] = Usage(**told["usage"])
            if told.get("response") is not None:
                response = dict(told["response"])
                response["usage"] = Usage(**response["usage"])
                response["tool_calls"] = tuple(ToolCall(**one) for one in response["tool_calls"])
                fields["response"] = LLMResponse(**response)
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"this is no ExecutionResult: {error}", remedy="give what to_dict returned") from error

    def copy(self) -> ExecutionResult:
        """Return a copy that shares nothing that can change."""
        return ExecutionResult.from_dict(self.to_dict())


def _counts(usage: Usage) -> dict[str, int]:
    return {name: getattr(usage, name) for name in Usage.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorStats:
    """What an executor did so far.

    Attributes:
        executions: Calls of `execute` and `stream` that ended, failed ones and those found in the cache included.
        usage: Tokens of all of them, as far as they gave an answer.
        cost_usd: US dollars of those whose price is known.
        total_latency_ms, max_latency_ms: Of those that asked a model and gave an answer.
    """

    executions: int = 0
    failures: int = 0
    cache_hits: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: float = 0.0
    total_latency_ms: float = 0.0
    max_latency_ms: float = 0.0

    @property
    def mean_latency_ms(self) -> float | None:
        asked = self.executions - self.failures - self.cache_hits
        return self.total_latency_ms / asked if asked else None

    def with_result(self, result: ExecutionResult) -> ExecutorStats:
        """Return the numbers with one more answer of a model."""
        return replace(
            self,
            executions=self.executions + 1,
            usage=self.usage + result.usage,
            cost_usd=self.cost_usd + (result.cost_usd or 0.0),
            total_latency_ms=self.total_latency_ms + result.total_latency_ms,
            max_latency_ms=max(self.max_latency_ms, result.total_latency_ms),
        )

    def with_hit(self) -> ExecutorStats:
        """Return the numbers with one more answer found in the cache."""
        return replace(self, executions=self.executions + 1, cache_hits=self.cache_hits + 1)

    def with_failure(self) -> ExecutorStats:
        """Return the numbers with one more execution that gave no answer."""
        return replace(self, executions=self.executions + 1, failures=self.failures + 1)
